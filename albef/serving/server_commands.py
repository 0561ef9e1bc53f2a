"""Commands that run a server or change what it serves: ``serve``, ``release`` and ``rollback``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from albef.config import GatewayConfig, load
from albef.serving import access

Add = Callable[..., argparse.ArgumentParser]


def add(command: Add) -> argparse.ArgumentParser:
    """Add the commands, and return that of ``serve``.

    Args:
        command: Adds a command with a name, a function, a help text and names of required folders.
    """
    serve = _add_serve(command)
    _add_gateway(command)
    release = command(
        "release", _release, "load a new version next to the served one, probe it, switch to it", "repository"
    )
    release.add_argument("--new", type=Path, required=True, help="model repository with the new version")
    release.add_argument("--probes", type=Path, help="JSON list of requests that the new version must answer")
    release.add_argument("--model-version", type=int, help="number of the new version; default: the next one")
    rollback = command("rollback", _rollback, "return to the version before the served one", "repository")
    for each in (release, rollback):
        each.add_argument("--url", default="127.0.0.1:8001", help="gRPC address of the server")
        access.add_options(each)
    return serve


def _add_serve(command: Add) -> argparse.ArgumentParser:
    serve = command("serve", _serve, "serve a model repository, on loopback unless told otherwise")
    serve.add_argument("--repository", required=True, help="folder, or s3://http://HOST:PORT/BUCKET/FOLDER (AWS_* set)")
    serve.add_argument("--address", default="127.0.0.1", help="address to listen on; a network needs TLS and tokens")
    serve.add_argument("--grpc-port", type=int, default=8001)
    serve.add_argument("--http-port", type=int, default=8000)
    serve.add_argument("--no-http", action="store_true", help="serve gRPC alone")
    serve.add_argument("--metrics-port", type=int, default=8002)
    serve.add_argument(
        "--metrics-address", default="127.0.0.1", help="address of the metrics, which have no protection"
    )
    serve.add_argument("--tls-cert", type=Path, help="PEM file of the server's certificate")
    serve.add_argument("--tls-key", type=Path, help="PEM file of its private key")
    serve.add_argument("--tls-client-ca", type=Path, help="PEM file; clients must present a certificate signed by it")
    serve.add_argument("--tokens", type=Path, help="file of the clients' tokens, one per line")
    serve.add_argument(
        "--admin-key", type=Path, help="file of the administrator's key; default: a new one at each start"
    )
    serve.add_argument("--gateway", action="store_true", help="put nginx in front, with limits per client")
    serve.add_argument("--hosts", nargs="+", default=[], help="further names of this server, for HTTP")
    serve.add_argument("--origins", nargs="+", default=[], help="origins of web pages that may send HTTP requests")
    serve.add_argument("--max-requests", type=int, default=64, help="most requests of an endpoint in progress")
    serve.add_argument("--timeout", type=float, default=60.0, help="most seconds for an answer")
    serve.add_argument("--grace", type=float, default=20.0, help="seconds for requests in progress when stopping")
    serve.add_argument("--cache-bytes", type=int, default=2**28, help="size of the cache of encoded images")
    serve.add_argument("--log", type=Path, help="file for the server's log")
    serve.add_argument("--log-requests", action="store_true", help="log every request, not only errors")
    serve.add_argument("--trace", type=_collector, metavar="URL", help="collector of traces, for OTLP over HTTP")
    text = "trace each N-th request; 0: only those that are part of a trace"
    serve.add_argument("--trace-every", type=_count, metavar="N", default=1, help=text)
    serve.add_argument("--sample-requests", type=Path, help="folder for statistics of requests, read by `albef drift`")
    serve.add_argument("--sample-fraction", type=float, default=0.1, help="fraction of requests to sample, in (0, 1]")
    serve.add_argument("--explicit", action="store_true", help="deprecated and without effect")
    return serve


def _collector(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        message = f"{text!r}: expected the URL of a collector of traces, such as http://127.0.0.1:4318/v1/traces"
        raise argparse.ArgumentTypeError(message)
    return text


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of requests, 0 or more")
    return int(text)


def _add_gateway(command: Add) -> None:
    gateway = command("gateway", _gateway, "write the configuration of nginx as a gateway in a container")
    gateway.add_argument("--grpc", default="127.0.0.1:8001", help="gRPC address of the service")
    gateway.add_argument("--http", default="127.0.0.1:8000", help="HTTP address of the service")
    gateway.add_argument("--address", default="0.0.0.0", help="address to listen on")
    gateway.add_argument("--grpc-port", type=int, default=9001)
    gateway.add_argument("--http-port", type=int, default=9000)
    gateway.add_argument("--tls-cert", type=Path, required=True, help="path of the certificate where nginx runs")
    gateway.add_argument("--tls-key", type=Path, required=True, help="path of its private key where nginx runs")
    gateway.add_argument("--tls-client-ca", type=Path, help="path of the clients' authority where nginx runs")
    gateway.add_argument("--tokens", type=Path, help="file of the clients' tokens, one per line")
    gateway.add_argument("--timeout", type=float, default=60.0, help="most seconds for an answer")
    gateway.add_argument("--folder", type=Path, default=Path("/tmp"), help="folder for temporary files of nginx")
    gateway.add_argument("--out", type=Path, default=Path("nginx.conf"), help="file to write")


def _serve(args: argparse.Namespace) -> None:
    from albef.serving.server import TritonServer
    from albef.serving.service import Access, Limits, Service, serve

    allowed = Access(
        address=args.address,
        grpc_port=args.grpc_port,
        http_port=None if args.no_http else args.http_port,
        tls=access.Tls(args.tls_client_ca, args.tls_cert, args.tls_key),
        tokens=access.read_tokens(args.tokens) if args.tokens else (),
        admin_key=args.admin_key,
        gateway=_limits(args.params) if args.gateway else None,
        hosts=args.hosts,
        origins=args.origins,
    )
    names = ["metrics_address", "metrics_port", "log", "log_requests", "trace", "trace_every", "sample_fraction"]
    options = {name: getattr(args, name) for name in names}
    server = TritonServer(args.repository, sample=args.sample_requests, cache_bytes=args.cache_bytes, **options)
    serve(Service(server, allowed, Limits(max_requests=args.max_requests, timeout=args.timeout, grace=args.grace)))


def _limits(params: Path) -> GatewayConfig:
    """Return the limits in the parameters, or the default ones without such a file."""
    return load(params).gateway if params.is_file() else GatewayConfig()


def _gateway(args: argparse.Namespace) -> None:
    from albef.io import write_file
    from albef.serving.gateway import Gateway

    gateway = Gateway(
        address=args.address,
        grpc_port=args.grpc_port,
        http_port=args.http_port,
        grpc=args.grpc,
        http=args.http,
        tls=access.Tls(args.tls_client_ca, args.tls_cert, args.tls_key),
        tokens=access.read_tokens(args.tokens) if args.tokens else (),
        timeout=args.timeout,
    )
    if access.is_open(gateway.tls, gateway.tokens):
        raise access.AccessError("the gateway needs --tokens or --tls-client-ca")
    args.out.touch(mode=0o600)
    write_file(args.out, gateway.configuration(_limits(args.params), args.folder))
    args.out.chmod(0o600)


def _release(args: argparse.Namespace) -> None:
    from albef.serving import release

    probes = release.read_probes(args.probes) if args.probes else []
    folders = (args.repository, args.new, args.url)
    given = access.credentials(args)
    print(f"version {release.release(*folders, probes, args.model_version, credentials=given)} answers")


def _rollback(args: argparse.Namespace) -> None:
    from albef.serving import release

    given = access.credentials(args)
    print(f"version {release.rollback(args.repository, args.url, credentials=given)} answers")
