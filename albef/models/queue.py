"""Queue of momentum features as additional ITC negatives (paper section 3.2).

B = batch, K = queue size, P = projection width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NO_ID = -100
"""Id of a slot whose image is unknown; it never counts as a positive."""


class FeatureQueue(nn.Module):
    """Ring buffer of the latest ``K`` teacher features, with their image ids.

    The write position is a plain integer: reading it needs no host-device synchronization. The features are buffers,
    so they move with the model and are saved with it.
    """

    image: Tensor
    text: Tensor
    ids: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.register_buffer("image", F.normalize(torch.randn(size, width), dim=1))
        self.register_buffer("text", F.normalize(torch.randn(size, width), dim=1))
        self.register_buffer("ids", torch.full((size,), NO_ID))
        self.position = 0

    def __len__(self) -> int:
        return self.image.shape[0]

    @torch.no_grad()
    def enqueue(self, image_feat: Tensor, text_feat: Tensor, ids: Tensor | None = None) -> None:
        """Overwrite the oldest slots with features ``(B, P)``, wrapping around at the end.

        Raises:
            ValueError: If the batch is larger than the queue.
        """
        count, size = image_feat.shape[0], len(self)
        if count > size:
            raise ValueError(
                f"model.queue_size: {size} is less than the batch of {count}; raise it or lower batch_size"
            )
        head = min(count, size - self.position)
        for start, first, rows in ((self.position, 0, head), (0, head, count - head)):
            if rows:
                self.image[start : start + rows] = image_feat[first : first + rows]
                self.text[start : start + rows] = text_feat[first : first + rows]
                self.ids[start : start + rows] = NO_ID if ids is None else ids[first : first + rows]
        self.position = (self.position + count) % size

    def get_extra_state(self) -> Tensor:
        """Return the write position, to be saved with the features."""
        return torch.tensor(self.position)

    def set_extra_state(self, state: Tensor) -> None:
        """Restore the write position."""
        self.position = int(state) % len(self)
