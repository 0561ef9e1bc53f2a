"""Configuration of nginx as the gateway to a network, in front of the service.

nginx ends TLS, checks tokens, and bounds bodies, rates, connections and times per client, before a request costs the
service anything. It passes the inference and health methods on, and no administration.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from albef.config import GatewayConfig
from albef.io import write_file
from albef.serving.access import Tls
from albef.serving.http_app import MAX_BODY
from albef.serving.processes import Child
from albef.serving.proxy import SERVICE
from albef.serving.requests import ServingError
from albef.serving.transport import MAX_MESSAGE

METHODS = ("ModelInfer", "ModelMetadata", "ModelReady", "ServerLive", "ServerMetadata", "ServerReady")
"""Methods that are passed on."""
_ERRORS = {400: (3, "invalid request"), 401: (16, "expected a valid token"), 404: (12, "unknown method")}
_ERRORS |= {408: (4, "the request arrives too slowly"), 413: (8, "the request is too large")}
_ERRORS |= {415: (12, "compression is not supported"), 429: (8, "too many requests, try again later")}
_ERRORS |= {502: (14, "the service is not available"), 503: (14, "the service is not available")}
_ERRORS |= {504: (4, "the service did not answer in time")}
_TEMPLATE = Template("""\
# Written by `albef gateway` or `albef serve --gateway`; has secrets, so keep it readable by nginx alone.
${user}worker_processes auto;
daemon off;
pid ${folder}/nginx.pid;
error_log stderr warn;
events {
    worker_connections 4096;
}
http {
    access_log off;
    server_tokens off;
    client_body_temp_path ${folder}/body;
    proxy_temp_path ${folder}/proxy;
    fastcgi_temp_path ${folder}/fastcgi;
    uwsgi_temp_path ${folder}/uwsgi;
    scgi_temp_path ${folder}/scgi;

    # The name of a client is the number of its token; without tokens, all clients are known by their certificates.
    map $$http_authorization $$client {
        default "${anonymous}";
${tokens}    }
    map $$client $$refused {
        default 0;
        "" 1;
    }
    # Limits hold for a client at an address.
    map $$client $$limited {
        default "$$client $$binary_remote_addr";
    }
    # The health of the service is not limited.
    limit_req_zone $$limited zone=requests:10m rate=${rate}r/s;
    limit_req_zone $$binary_remote_addr zone=guesses:10m rate=${rate}r/s;
    limit_conn_zone $$binary_remote_addr zone=connections:10m;
    limit_req_status 429;
    limit_conn_status 429;

    client_header_timeout 10s;
    client_body_timeout ${body_timeout}s;
    send_timeout 30s;
    keepalive_timeout 75s;
    keepalive_requests 100000;
    large_client_header_buffers 4 8k;
    reset_timedout_connection on;
    ignore_invalid_headers on;
    gzip off;

    ssl_certificate ${cert};
    ssl_certificate_key ${key};
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_session_cache shared:sessions:10m;
    ssl_session_tickets off;
${client_ca}
    upstream grpc_service {
        server ${grpc};
        keepalive 32;
    }
    upstream http_service {
        server ${http};
        keepalive 32;
    }

    server { # gRPC
        listen ${address}:${grpc_port} ssl http2;
        http2_max_concurrent_streams ${connections};
        client_max_body_size ${max_message};
        limit_conn connections ${connections};
${grpc_errors}
        location ~ ^/${service}/(${methods})$$ {
            limit_req zone=guesses burst=${burst} nodelay;
            limit_req zone=requests burst=${burst} nodelay;
            if ($$refused) {
                return 401;
            }
            if ($$http_grpc_encoding !~ ^(identity)?$$) {
                return 415;
            }
            grpc_pass grpc://grpc_service;
            grpc_read_timeout ${timeout}s;
            grpc_send_timeout 30s;
            grpc_connect_timeout 5s;
        }
        location = /grpc.health.v1.Health/Check {
            grpc_pass grpc://grpc_service;
        }
        location / {
            return 404;
        }
    }

    server { # HTTP
        listen ${address}:${http_port} ssl;
        client_max_body_size ${max_body};
        limit_conn connections ${connections};
        add_header X-Content-Type-Options nosniff always;

        location /v1/ {
            limit_req zone=guesses burst=${burst} nodelay;
            limit_req zone=requests burst=${burst} nodelay;
            if ($$refused) {
                return 401;
            }
            if ($$http_content_encoding !~ ^(identity)?$$) {
                return 415;
            }
            proxy_pass http://http_service;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $$host;
            proxy_request_buffering on;
            proxy_read_timeout ${timeout}s;
            proxy_connect_timeout 5s;
        }
        location ~ ^/(health(/live|/ready)?|docs|openapi\\.json|static-offline-docs/[a-z.-]+)$$ {
            limit_except GET {
                deny all;
            }
            proxy_pass http://http_service;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $$host;
        }
        location / {
            return 404;
        }
    }
}
""")


class GatewayError(ServingError):
    """nginx is missing or does not start."""


@dataclass(frozen=True)
class Gateway:
    """Addresses of the gateway, and of the service behind it.

    Args:
        address: Address to listen on.
        grpc_port, http_port: Ports to listen on.
        grpc, http: Addresses of the service: ``HOST:PORT``, or ``unix:PATH``.
        tls: Certificate and key, and the certificates that clients must descend from.
        tokens: Tokens of clients; empty if certificates are required.
        timeout: Most seconds for an answer.
    """

    address: str
    grpc_port: int
    http_port: int
    grpc: str
    http: str
    tls: Tls
    tokens: Sequence[str]
    timeout: float

    def configuration(self, config: GatewayConfig, folder: Path) -> str:
        """Return the content of ``nginx.conf``, whose temporary files are in ``folder``."""
        errors = "".join(
            f"        error_page {status} = @grpc{status};\n        location @grpc{status} {{\n"
            f"            internal;\n            default_type application/grpc;\n"
            f'            add_header grpc-status {code} always;\n            add_header grpc-message "{text}" always;\n'
            "            return 204;\n        }\n"
            for status, (code, text) in _ERRORS.items()
        )
        client_ca = f"    ssl_client_certificate {self.tls.ca};\n    ssl_verify_client on;\n" if self.tls.ca else ""
        return _TEMPLATE.substitute(
            user="user root;\n" if os.getuid() == 0 else "",  # the sockets of the service are this user's
            folder=folder,
            anonymous="" if self.tokens else "certificate",
            tokens="".join(f'        "Bearer {token}" "token{n}";\n' for n, token in enumerate(self.tokens, 1)),
            rate=config.requests_per_second,
            burst=config.burst,
            connections=config.connections,
            body_timeout=config.body_timeout,
            cert=self.tls.cert,
            key=self.tls.key,
            client_ca=client_ca,
            grpc=self.grpc,
            http=self.http,
            address=self.address,
            grpc_port=self.grpc_port,
            http_port=self.http_port,
            max_message=MAX_MESSAGE,
            max_body=MAX_BODY,
            timeout=int(self.timeout),
            service=SERVICE.replace(".", r"\."),
            methods="|".join(METHODS),
            grpc_errors=errors,
        )

    def start(self, config: GatewayConfig, folder: Path) -> Child:
        """Start nginx and wait until it listens.

        Raises:
            GatewayError: If it is not installed or does not start.
        """
        program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
        if program is None:
            raise GatewayError("nginx is not installed, which the gateway needs; on Debian: apt install nginx-light")
        folder.mkdir(exist_ok=True)
        path = folder / "nginx.conf"
        path.touch(mode=0o600)
        write_file(path, self.configuration(config, folder))
        path.chmod(0o600)
        (folder / "nginx.pid").unlink(missing_ok=True)
        child = Child([program, "-e", "stderr", "-p", str(folder), "-c", str(path)])
        while not (folder / "nginx.pid").exists():
            if child.poll() is not None:
                raise GatewayError(f"nginx did not start and ended with status {child.poll()}; its error is above")
            time.sleep(0.02)
        return child
