"""A training step: losses, gradients, optimizer.

It never waits for the device, so that a GPU always has work queued. Scalars that change, such as the learning rate, are
on the device where a CUDA graph replays the step.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from albef import distributed
from albef.config import TrainConfig
from albef.tasks.base import Batch, Task
from albef.training.graph import Graphs

_logger = logging.getLogger(__name__)


class TrainingError(ValueError):
    """Training cannot continue."""


class TrainStep:
    """One update of the weights from the parts of a batch.

    A step whose loss or gradient is not finite changes no weights and no optimizer state; it is counted. Teacher and
    queue, which the forward pass updates, stay finite.
    """

    def __init__(
        self,
        task: Task,
        forward: Task | DistributedDataParallel,
        optimizer: torch.optim.Optimizer,
        config: TrainConfig,
        device: torch.device,
    ) -> None:
        self.task, self.forward, self.optimizer, self.config, self.device = task, forward, optimizer, config, device
        self.parameters = [p for p in task.parameters() if p.requires_grad]
        ranks = distributed.world_size()
        parts = config.parts(ranks)
        rows = distributed.sizes(config.batch_size, ranks * parts)
        task.model.rows = [rows[rank * parts : (rank + 1) * parts] for rank in range(ranks)]
        # DDP averages gradients over ranks, whose shares may differ.
        self.weights = [count * ranks / config.batch_size for count in task.model.rows[distributed.rank()]]
        self.longest_allowed = config.max_skipped_steps
        self.sums: dict[str, Tensor] = {}
        # Steps that count, steps skipped, steps skipped in a row until now, longest such row.
        self.counts = torch.zeros(4, device=device)
        self.graphs: Graphs | None = None
        if uses_graph(task, config, device):
            self.graphs = Graphs(self._run)
            self._alpha = torch.zeros((), device=device)
        self.link_rates()

    def link_rates(self) -> None:
        """Put learning rates on the device if a graph reads them there.

        Loading the optimizer's state replaces them, maybe by those of a run with a graph.
        """
        for group in self.optimizer.param_groups:
            if self.graphs is not None:
                group |= {"lr": torch.zeros((), device=self.device), "capturable": True}
            elif isinstance(group["lr"], Tensor):
                group |= {"lr": group["lr"].item(), "capturable": False}

    def __call__(self, parts: Sequence[Batch], rate: float, alpha: float) -> None:
        """Train on a batch that is on the device.

        Args:
            parts: Parts of the batch that gradients are accumulated over.
            rate: Learning rate.
            alpha: Weight of momentum distillation.
        """
        for group in self.optimizer.param_groups:
            scaled = rate * group["lr_scale"]
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(scaled)
            else:
                group["lr"] = scaled
        if self.graphs is None:
            self._run(parts, alpha)
        else:
            self.graphs(parts, self._alpha.fill_(alpha))

    def _run(self, parts: Sequence[Batch], alpha: float | Tensor) -> None:
        count = len(parts)
        totals: dict[str, Tensor] = {}
        self.optimizer.zero_grad(set_to_none=True)
        for index, batch in enumerate(parts):
            self.task.model.part = (index, count)
            wrapped = isinstance(self.forward, DistributedDataParallel)
            with self.forward.no_sync() if wrapped and index + 1 < count else nullcontext():  # type: ignore[operator]
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
                    outputs = self.forward(batch, alpha)
                loss = torch.stack([value for name, value in outputs.items() if name.endswith("_loss")]).sum()
                weight = self.weights[index]
                (loss if weight == 1 else loss * weight).backward()
            for name, value in {**outputs, "loss": loss}.items():
                part = value.detach().float() * weight
                totals[name] = totals[name] + part if name in totals else part
        self._update(totals)

    def _update(self, totals: dict[str, Tensor]) -> None:
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        finite = distributed.all_true(norm.isfinite() & totals["loss"].isfinite())
        if self.config.optim.clip:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.config.optim.clip, norm)
        if isinstance(self.optimizer, torch.optim.AdamW):
            self.optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]  # its kernel then changes nothing
            self.optimizer.step()
        elif finite:
            self.optimizer.step()
        for name, value in {**totals, "grad_norm": norm.detach()}.items():
            value = torch.where(finite, value, 0.0)
            if name in self.sums:
                self.sums[name] += value
            else:
                self.sums[name] = value.clone()
        row = torch.where(finite, 0.0, self.counts[2] + 1)
        good, skipped, longest = self.counts[0] + finite, self.counts[1] + ~finite, self.counts[3].maximum(row)
        self.counts.copy_(torch.stack([good, skipped, row, longest]))

    def check(self) -> None:
        """Wait for the device and check that the state may be saved; on all ranks.

        Raises:
            TrainingError: If too many steps in a row were skipped, or a weight or state of the optimizer is not finite:
                an update can overflow although its loss and gradient are finite.
        """
        self._check(self.counts[3].item())
        state = {**self.task.state_dict(), **self._optimizer_state()}
        names, tensors = zip(*((n, v) for n, v in state.items() if v.is_floating_point()), strict=True)
        finite = torch.stack([tensor.isfinite().all() for tensor in tensors])
        if not distributed.all_true(finite.all()):
            bad = [name for name, good in zip(names, finite.tolist(), strict=True) if not good]
            raise TrainingError(
                f"{self.task.name}: {bad[0] if bad else 'a weight of another rank'} is not finite, so no checkpoint is "
                "written and the last one stays; lower optim.lr"
            )

    def _optimizer_state(self) -> dict[str, Tensor]:
        states = enumerate(self.optimizer.state.values())
        return {f"{n} of the optimizer ({i})": v for i, s in states for n, v in s.items() if isinstance(v, Tensor)}

    def _check(self, longest: float) -> None:
        if longest >= self.longest_allowed:
            raise TrainingError(
                f"{self.task.name}: loss or gradient of {longest:.0f} steps in a row is not finite, expected fewer "
                f"than {self.longest_allowed} (max_skipped_steps, or all steps of the run); lower optim.lr or check "
                "the data"
            )

    def report(self, steps: int) -> None:
        """Log how many of the run's steps were skipped, if any."""
        if skipped := int(self.counts[1].item()):
            _logger.warning(
                "%s: %d of %d steps were skipped, because their loss or gradient was not finite",
                self.task.name,
                skipped,
                steps,
            )

    def read(self) -> tuple[dict[str, float], int]:
        """Return mean losses since the last call and the number of skipped steps since the start.

        This waits for the device.

        Raises:
            TrainingError: If too many steps in a row were skipped.
        """
        values = distributed.all_reduce_mean(torch.stack([*self.sums.values(), *self.counts])).tolist()
        good, skipped, _, longest = values[len(self.sums) :]
        self._check(longest)
        means = {name: value / good if good else float("nan") for name, value in zip(self.sums, values, strict=False)}
        for value in self.sums.values():
            value.zero_()
        self.counts[0] = 0
        return means, int(skipped)

    def state(self) -> dict[str, Tensor]:
        """Return the sums of losses and the counts, to be saved in a checkpoint."""
        return {"counts": self.counts.cpu(), **{name: value.cpu() for name, value in self.sums.items()}}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restore `state`."""
        self.counts.copy_(state["counts"])
        self.sums = {name: value.to(self.device) for name, value in state.items() if name != "counts"}
        self.link_rates()


def uses_graph(task: Task, config: TrainConfig, device: torch.device) -> bool:
    """Return whether the step is captured in a CUDA graph.

    It is on one GPU, if all its shapes follow from those of the batch.
    """
    possible = (
        device.type == "cuda"
        and task.fixed_shapes
        and config.optim.kind == "adamw"
        and distributed.world_size() == 1
        and not config.activation_checkpointing
    )
    return possible and config.cuda_graph is not False
