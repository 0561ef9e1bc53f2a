"""Rows of the paper's table 1 as parameter changes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from albef.config import Config

COLUMNS = {
    "tr": "text retrieval, mean of R@1, 5, 10",
    "ir": "image retrieval, mean of R@1, 5, 10",
    "entailment": "visual entailment",
    "nlvr2": "NLVR2",
    "vqa": "VQA",
}
"""Metrics by short name, in the paper's order: Flickr30K (both), SNLI-VE test, NLVR2 test-P, VQA test-dev."""


@dataclass(frozen=True)
class Variant:
    """A row of the table.

    Args:
        name: Name in the paper.
        itc, hard_negatives, distill_itc, distill_mlm: Pretraining options; see `albef.config.PretrainConfig`.
        distill_downstream: Whether fine-tuning uses momentum distillation.
        paper: Numbers of the paper with 4M images, in the order of `COLUMNS`.
    """

    name: str
    itc: bool
    hard_negatives: bool
    distill_itc: bool
    distill_mlm: bool
    distill_downstream: bool
    paper: tuple[float, float, float, float, float]

    @property
    def pretraining(self) -> str:
        """Name of the pretraining run, shared by variants with equal pretraining options."""
        names = ("itc", "hard_negatives", "distill_itc", "distill_mlm")
        return "+".join(["mlm", "itm", *(name for name in names if getattr(self, name))])

    def apply(self, config: Config, seed: int) -> Config:
        """Return the parameters of this row; ``seed`` shifts all training seeds."""
        pretrain = replace(
            config.pretrain,
            seed=config.pretrain.seed + 1000 * seed,
            itc=self.itc,
            hard_negatives=self.hard_negatives,
            distill_itc=self.distill_itc,
            distill_mlm=self.distill_mlm,
        )
        sections = {}
        for name, section in vars(config.tasks).items():
            train = replace(section.train, seed=section.train.seed + 1000 * seed)
            if not self.distill_downstream:
                train = replace(train, alpha=0.0)
            sections[name] = replace(section, train=train)
        assignment = replace(config.text_assignment, seed=config.text_assignment.seed + 1000 * seed)
        return replace(config, pretrain=pretrain, text_assignment=assignment, tasks=replace(config.tasks, **sections))


VARIANTS = (
    Variant("MLM + ITM", False, False, False, False, False, (93.96, 88.55, 77.06, 77.51, 71.40)),
    Variant("ITC + MLM + ITM", True, False, False, False, False, (96.55, 91.69, 79.15, 79.88, 73.29)),
    Variant("ITC + MLM + ITM_hard", True, True, False, False, False, (97.01, 92.16, 79.77, 80.35, 73.81)),
    Variant("ITC_MoD + MLM + ITM_hard", True, True, True, False, False, (97.33, 92.43, 79.99, 80.34, 74.06)),
    Variant("ITC_MoD + MLM_MoD + ITM_hard", True, True, True, True, False, (97.47, 92.58, 80.12, 80.44, 74.42)),
    Variant("the same + MoD downstream (ALBEF)", True, True, True, True, True, (97.83, 92.65, 80.30, 80.50, 74.54)),
)
"""Table 1 of arXiv 2107.07651 from top to bottom."""
