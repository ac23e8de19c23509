"""BINGO: bags against scikit-learn's neighbours, the loss against a float64 loop, and what a run keeps of both."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.neighbours import nearest_others
from compress_ssl.pipeline.distill.objectives.bingo import BINGO
from compress_ssl.pipeline.distill.objectives.objective import Batch, TeacherEmbeddings
from tests.pipeline.distill.float64 import check_loss, unit

Trained = Callable[..., dict[str, Tensor]]


def test_bags_are_scikit_learns_neighbours_without_the_image_itself() -> None:
    torch.manual_seed(0)
    embeddings = unit(torch.randn(50, 12))
    found = nearest_others(embeddings, 4, torch.device("cpu"))
    theirs = NearestNeighbors(n_neighbors=4).fit(embeddings.double().numpy()).kneighbors(return_distance=False)
    np.testing.assert_array_equal(found.numpy(), theirs)


def test_no_image_is_in_its_own_bag_among_duplicates() -> None:
    found = nearest_others(unit(torch.ones(9, 4)), 3, torch.device("cpu"))
    assert found.shape == (9, 3)
    assert not (found == torch.arange(9)[:, None]).any()
    assert all(len(set(bag)) == 3 for bag in found.tolist())


def test_loss_and_gradient_are_the_textbooks() -> None:
    torch.manual_seed(0)
    good = torch.arange(0, 60, 2)
    view0 = unit(torch.randn(30, 24))
    objective = BINGO(
        nn.Identity(), teacher_dim=24, student_dim=16, images=60, bank_size=20, neighbours=3, temperature=0.3
    )
    objective.fit_teacher(TeacherEmbeddings(view0, good))
    assert (objective.bags[1::2] == -1).all()
    queue = unit(torch.randn(20, 24))
    objective.teacher_bank.enqueue(queue)
    teacher = unit(view0[:8] + 0.1 * torch.randn(8, 24))
    stored = unit(view0.half().double())  # half precision, as in a store
    neighbours = NearestNeighbors(n_neighbors=3).fit(view0.double().numpy()).kneighbors(return_distance=False)

    def info_nce(query: Tensor, positive: Tensor) -> Tensor:
        scores = torch.stack([query @ key / 0.3 for key in (positive, *queue.double())]).exp()
        return -(scores[0] / scores.sum()).log()

    def textbook(projected: Tensor) -> Tensor:
        losses = []
        for number, query in enumerate(unit(projected)):
            intra = info_nce(query, teacher[number].double())
            inter = sum((info_nce(query, stored[member]) for member in neighbours[number]), torch.zeros(())) / 3
            losses.append((intra + inter) / 2)
        return torch.stack(losses).mean()

    check_loss(objective, Batch(torch.randn(8, 16), teacher, good[:8]), textbook)


def test_loss_before_fit_teacher_is_nan() -> None:
    objective = BINGO(nn.Identity(), teacher_dim=24, student_dim=16, images=60, bank_size=20)
    loss, _ = objective(nn.Identity(), Batch(torch.randn(4, 16), unit(torch.randn(4, 24)), torch.arange(4)))
    assert torch.isnan(loss)


def test_checkpoint_has_the_bags_of_view_0_and_not_its_embeddings(
    trained: Trained, store: Path, tmp_path: Path
) -> None:
    trained(objective="bingo", neighbours=2, epochs=1)
    saved = torch.load(tmp_path / "student" / "checkpoint.pt")["modules"]
    view = zarr.open_group(store, mode="r")["train"]["embeddings"][0].astype(np.float64)
    view /= np.linalg.norm(view, axis=1, keepdims=True)
    similarities = view @ view.T
    np.fill_diagonal(similarities, -2)
    np.testing.assert_array_equal(saved["objective.bags"], np.argsort(-similarities, axis=1)[:, :2])
    assert not any("members" in key or "teacher_bank" in key for key in saved)


def test_as_many_neighbours_as_images_are_refused_before_anything_is_written(trained: Trained, tmp_path: Path) -> None:
    expected = "--neighbours 29 needs more images than that, and there are 29; lower it"
    with pytest.raises(InputError, match=expected):
        trained(objective="bingo", neighbours=29)
    assert not (tmp_path / "student").exists()
    objective = BINGO(nn.Identity(), teacher_dim=24, student_dim=16, images=29, neighbours=29)
    with pytest.raises(InputError, match=expected):
        objective.fit_teacher(TeacherEmbeddings(unit(torch.randn(29, 24)), torch.arange(29)))
