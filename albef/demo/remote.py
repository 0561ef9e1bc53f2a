"""Models of a server."""

from __future__ import annotations

from PIL import Image

from albef.data.images import decode, load_image
from albef.demo.data import Data
from albef.demo.heat import located
from albef.demo.models import TASKS, TOP, Labels, Titled
from albef.serving.access import Credentials
from albef.serving.client import Client, NoSuchEndpointError
from albef.serving.transport import translated_errors

_RETRIES = 2
"""Few attempts: a visitor should soon see that there is no server."""
_ENDPOINTS = {**TASKS, "compare": "compare", "classify": "classify"}
"""Endpoint that answers, by the method of `Models`."""


class Remote:
    """Client of a server, which closes with the ``with`` block; see `albef.demo.models.Models`.

    Raises:
        NoSuchEndpointError: If the server has none of the endpoints.
        ServingError: If it does not answer.
    """

    def __init__(self, url: str, credentials: Credentials, data: Data) -> None:
        self.data = data
        self.client = Client(url, retries=_RETRIES, **credentials.options(url))
        self.tabs = [method for method, endpoint in _ENDPOINTS.items() if self._ready(endpoint)]
        if not self.tabs:
            raise NoSuchEndpointError(f"{url}: none of the endpoints {', '.join({*_ENDPOINTS.values()})} is ready")
        self.about = f"The models are those of the server at {url}."

    def _ready(self, endpoint: str) -> bool:
        client = self.client
        with translated_errors(client.url, endpoint):
            return bool(client.triton.is_model_ready(endpoint, headers=client.headers, client_timeout=client.timeout))

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def search(self, text: str, k: int) -> Titled:
        """See `albef.demo.models.Models`; an image whose file is not at hand is gray, with its id."""
        shown: Titled = []
        for match in self.client.retrieve(text=text, k=k):
            path = self.data.find(match.id)
            image = load_image(path) if path else Image.new("RGB", (64, 64), "lightgray")
            shown.append((image, f"{match.score:.2f}" if path else f"{match.score:.2f} {match.id}"))
        return shown

    def captions(self, image: bytes, texts: list[str]) -> Labels:
        """See `albef.demo.models.Models`; the known captions are those of the index."""
        if texts:
            raise ValueError("texts of your own need models in this process; leave them out, or use the tab Classify")
        return {match.id: match.score for match in self.client.retrieve(image=image, k=TOP)}

    def answer(self, image: bytes, question: str) -> Labels:
        """See `albef.demo.models.Models`."""
        return {answer.text: answer.probability for answer in self.client.answer(image, question, TOP)}

    def entail(self, image: bytes, hypothesis: str) -> Labels:
        """See `albef.demo.models.Models`."""
        return self.client.entail(image, hypothesis)

    def ground(self, image: bytes, phrase: str) -> tuple[Image.Image, Titled]:
        """See `albef.demo.models.Models`; a server has no heat maps of words."""
        found = self.client.ground(image, phrase)
        return located(found.heat, found.box, decode(image)), []

    def compare(self, first: bytes, second: bytes, statement: str) -> Labels:
        """See `albef.demo.models.Models`."""
        return self.client.compare(first, second, statement)

    def classify(self, image: bytes, labels: list[str], templates: list[str]) -> Labels:
        """See `albef.demo.models.Models`."""
        return self.client.classify(image, labels, templates)
