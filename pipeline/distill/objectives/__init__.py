"""What a student is asked to match: one file an objective, all of one signature.

An objective is a module made from (student, dims, settings). Called with the student and a batch it gives the loss and
scalars to log; ``after_step`` runs after the optimiser. Its own trainable parts, the student's head among them, are its
parameters; they are thrown away at export.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress_ssl.pipeline.distill.objectives.cluster_classification import ClusterClassification
from compress_ssl.pipeline.distill.objectives.compress_1q import CompRess1q
from compress_ssl.pipeline.distill.objectives.compress_2q import CompRess2q
from compress_ssl.pipeline.distill.objectives.crd import CRD
from compress_ssl.pipeline.distill.objectives.regression import Regression
from compress_ssl.pipeline.distill.objectives.regression_bn import RegressionBN
from compress_ssl.pipeline.distill.objectives.seed import SEED
from compress_ssl.pipeline.distill.objectives.simreg import SimReg

if TYPE_CHECKING:
    from compress_ssl.pipeline.distill.objectives.objective import Objective

OBJECTIVES: dict[str, type[Objective]] = {
    "compress-2q": CompRess2q,
    "compress-1q": CompRess1q,
    "reg": Regression,
    "reg-bn": RegressionBN,
    "simreg": SimReg,
    "seed": SEED,
    "crd": CRD,
    "cc": ClusterClassification,
}
