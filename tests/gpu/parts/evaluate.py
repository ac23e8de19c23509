"""Stage three: neighbours and clusters of faiss on both devices, and whole evaluations."""

import time
from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize

from compress_ssl.pipeline.common.k_means import k_means
from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.evaluate.knn.search import nearest_neighbours
from compress_ssl.pipeline.evaluate.run import evaluate as evaluate_stage
from compress_ssl.pipeline.evaluate.settings import ClusterSettings, EvaluateSettings, KnnSettings, LinearSettings
from tests.gpu.measure import seconds_of
from tests.gpu.run import Run
from tests.gpu.stages import stored

EVALUATIONS: dict[type[EvaluateSettings], tuple[float, dict[str, Any]]] = {
    KnnSettings: (0.5, {"neighbours": [1, 5]}),
    LinearSettings: (3.0, {"epochs": 4, "views": 2}),
    ClusterSettings: (10.0, {}),
}
"""Evaluations: percent by which a score may differ between devices, and settings."""


def evaluate(run: Run) -> None:
    """The same neighbours, clusters as close, the same scores as on the CPU."""
    devices = list(dict.fromkeys(("cpu", run.device)))
    with run.attempt("neighbours"):
        neighbours(run)
    with run.attempt("k-means"):
        clusters(run, devices)
    for kind, (most, given) in EVALUATIONS.items():
        with run.attempt(kind.__name__):
            scores = []
            for device in devices:
                begun = time.perf_counter()
                model, output = str(stored(run, "photos").path), run.folder / f"evaluated-{device}"
                settings = kind.model_validate({"model": model, "device": device, "output": output, **given})
                scores.append(evaluate_stage(settings, Silent()).result.scores())
                run.measured(kind.__name__, device=device, seconds=time.perf_counter() - begun, scores=scores[-1])
            apart = max(abs(scores[0][name] - scores[-1][name]) for name in scores[0])
            run.check(f"{kind.__name__}: scores as on the CPU", apart <= most, percent_apart=float(apart))


def neighbours(run: Run) -> None:
    rows, asked, dim, k = (2000, 100, 64, 20) if run.toy else (100_000, 5000, 2048, 200)
    generator = np.random.default_rng(0)
    bank, queries = (generator.standard_normal((count, dim), np.float32).astype(np.float16) for count in (rows, asked))
    few = queries[: asked // 10]
    there = nearest_neighbours(bank, few, k)
    here = nearest_neighbours(bank, few, k, device=torch.device(run.device))
    same, apart = float((here.row == there.row).mean()), float(abs(here.similarity - there.similarity).max())
    run.check("neighbours as on the CPU", same > 0.999 and apart < 1e-4, same=same, similarity_apart=apart)
    begun = time.perf_counter()
    nearest_neighbours(bank, queries, k, device=torch.device(run.device))
    run.measured(f"{k} neighbours", seconds=time.perf_counter() - begun, rows=rows, queries=asked, features=dim)
    here_rows, here_queries = (normalize(torch.from_numpy(each).float().to(run.device)) for each in (bank, queries))
    seconds = seconds_of(lambda: [(part @ here_rows.T).topk(k) for part in here_queries.split(1024)], run.device, 3)
    run.measured(f"{k} neighbours by torch", seconds=seconds)


def clusters(run: Run, devices: list[str]) -> None:
    rows, dim, count = (2000, 64, 10) if run.toy else (100_000, 2048, 1000)
    embeddings = normalize(torch.from_numpy(np.random.default_rng(1).standard_normal((rows, dim), np.float32)))
    distances = []
    for device in devices:
        begun = time.perf_counter()
        found = k_means(embeddings, count, 0, torch.device(device), iterations=5)
        distances.append(float((embeddings - found.centroids[found.nearest]).square().sum(dim=1).mean()))
        run.measured("k-means", device=device, seconds=time.perf_counter() - begun, mean_square=distances[-1])
    run.check("clusters as close as on the CPU", abs(distances[-1] / distances[0] - 1) < 1e-3)
