"""What each of two ranks does for a test."""

import json
import os
from pathlib import Path
from typing import Any

import torch
import xxhash

from compress_ssl.pipeline.common.errors import InputError, ReportedByAnotherRank, RunError
from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.distill import run as distilling
from compress_ssl.pipeline.distill.settings import DistillSettings
from compress_ssl.pipeline.evaluate.run import evaluate
from compress_ssl.pipeline.evaluate.settings import LinearSettings
from compress_ssl.pipeline.pretrain import run as pretraining
from compress_ssl.pipeline.pretrain.settings import PretrainSettings
from compress_ssl.pipeline.recipe.live_evaluation import live_evaluation
from compress_ssl.pipeline.training import loop
from compress_ssl.pipeline.training.task import TrainingTask

seen: list[TrainingTask[Any]] = []


def remember_and_train(trainings: Any, *rest: Any) -> None:
    seen.extend(trainings)
    loop.train(trainings, *rest)


def state_hashes(training: TrainingTask[Any]) -> dict[str, str]:
    """Of all weights and buffers, those too that are not in a checkpoint."""
    tensors = dict(training.modules.named_parameters()) | dict(training.modules.named_buffers())
    return {name: xxhash.xxh3_64_hexdigest(tensor.detach().contiguous().numpy()) for name, tensor in tensors.items()}


def work(stage: str, given: list[dict[str, Any]]) -> Any:
    seen.clear()
    if stage == "distill":
        distilling.distill_together([DistillSettings(**each) for each in given], Silent(), live_evaluation)
    elif stage == "pretrain":
        pretraining.pretrain(PretrainSettings(**given[0]), Silent(), live_evaluation)
    else:
        return evaluate(LinearSettings(**given[0]), Silent()).result.model_dump(mode="json")
    return [state_hashes(each) for each in seen]


def do_works(file: Path) -> None:
    """Do the works of a JSON file, one after the other. A work is [stage, settings, ...].

    FILE.RANK.json gets the result of each: hashes of the state (weights, buffers, banks) of everything that was
    trained, or the sentence of an error.
    """
    distilling.train = pretraining.train = remember_and_train
    torch.set_num_threads(1)
    ends: list[Any] = []
    for stage, given in json.loads(file.read_text()):
        try:
            ends.append(work(stage, given))
        except (InputError, RunError) as error:
            ends.append(str(error))
        except ReportedByAnotherRank as error:
            ends.append(f"told by another: {error.__cause__}")
    file.with_suffix(f".{os.environ['RANK']}.json").write_text(json.dumps(ends))
