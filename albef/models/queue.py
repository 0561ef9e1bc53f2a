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

    Features and write position are on the device, so that a step needs no synchronization with it and can be captured
    in a CUDA graph.
    """

    image: Tensor
    text: Tensor
    ids: Tensor
    position: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.register_buffer("image", F.normalize(torch.randn(size, width), dim=1))
        self.register_buffer("text", F.normalize(torch.randn(size, width), dim=1))
        self.register_buffer("ids", torch.full((size,), NO_ID))
        self.register_buffer("position", torch.tensor(0), persistent=False)

    def __len__(self) -> int:
        return self.image.shape[0]

    @torch.no_grad()
    def enqueue(self, image_feat: Tensor, text_feat: Tensor, ids: Tensor | None = None) -> None:
        """Overwrite the oldest slots with features ``(B, P)``, wrapping around at the end.

        The slots keep their content if a feature is not finite.

        Raises:
            ValueError: If the batch is larger than the queue.
        """
        count, size = image_feat.shape[0], len(self)
        if count > size:
            raise ValueError(
                f"model.queue_size: {size} is less than the batch of {count}; raise it or lower batch_size"
            )
        slots = (self.position + torch.arange(count, device=self.position.device)) % size
        # Features of a step that is not finite would spoil all steps until they are overwritten.
        finite = image_feat.isfinite().all() & text_feat.isfinite().all()
        self.image.index_copy_(0, slots, torch.where(finite, image_feat.to(self.image.dtype), self.image[slots]))
        self.text.index_copy_(0, slots, torch.where(finite, text_feat.to(self.text.dtype), self.text[slots]))
        new_ids = torch.full_like(slots, NO_ID) if ids is None else ids
        self.ids.index_copy_(0, slots, torch.where(finite, new_ids, self.ids[slots]))
        self.position.copy_((self.position + count * finite) % size)

    def get_extra_state(self) -> Tensor:
        """Return the write position, to be saved with the features."""
        return self.position.clone()

    def set_extra_state(self, state: Tensor) -> None:
        """Restore the write position."""
        self.position.fill_(int(state) % len(self))
