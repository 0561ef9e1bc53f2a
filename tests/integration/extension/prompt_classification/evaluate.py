"""Accuracy of the class whose prompts are most similar to the image.

P = projection width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from albef.inference.encode import evaluating, pixels_of, words_of
from albef.tasks.job import Job, spaced


@torch.no_grad()
def class_features(job: Job, device: torch.device) -> Tensor:
    """Return the mean feature of the prompts of every class ``(classes, P)``."""
    config = job.config.tasks.prompt_classification
    features = []
    for name in config.evaluate.classes:
        prompts = [template.format(name) for template in config.evaluate.templates]
        ids, mask = words_of(prompts, job.encoder, config.train, device)
        features.append(F.normalize(job.model.encode_text(ids, mask)[1].float().mean(dim=0), dim=0))
    return torch.stack(features)


@torch.no_grad()
def run(job: Job) -> None:
    """Write ``metrics.json``, ``plots/accuracy.csv`` and ``shown/examples.json``."""
    config = job.config.tasks.prompt_classification
    rows = job.test_rows()
    classes, step = config.evaluate.classes, config.evaluate.batch_size
    found: list[int] = []
    with evaluating(job.model, config.train) as device:
        wanted = class_features(job, device)
        for start in range(0, len(rows), step):
            images = [rows.images(row, rows[row])[0] for row in range(start, min(start + step, len(rows)))]
            pixels = pixels_of(images, job.model.config.image_size).to(device)
            found += (job.model.encode_image(pixels)[1].float() @ wanted.T).argmax(dim=1).tolist()
    right = [classes[index] == row["label"] for index, row in zip(found, rows, strict=True)]
    accuracy = sum(right) / len(right)
    job.write_csv("accuracy.csv", "metric,value", [("accuracy", accuracy), ("chance", 1 / len(classes))])
    examples = [{**rows[row], "predicted": classes[found[row]]} for row in spaced(len(rows))]
    job.write_json("shown/examples.json", {"examples": examples})
    job.write_metrics({"accuracy": accuracy, "chance": 1 / len(classes)})
