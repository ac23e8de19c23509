"""Objectives: losses between student and teacher, one file each, usable without the pipeline; here is their registry.

No torch here: settings and ``--help`` read it.

An objective is a module, called with the student and a batch for the loss; it works on plain tensors, without settings
or stores (see ``objective.py``). To add one, write its file and add a line here: its options, with their help, bounds
and defaults, are the keyword parameters of its constructor.
"""

from __future__ import annotations

from typing import Final

OBJECTIVES: dict[str, str] = {
    "compress-2q": "compress_ssl.pipeline.distill.objectives.compress_2q:CompRess2q",
    "compress-1q": "compress_ssl.pipeline.distill.objectives.compress_1q:CompRess1q",
    "reg": "compress_ssl.pipeline.distill.objectives.regression:Regression",
    "reg-bn": "compress_ssl.pipeline.distill.objectives.regression_bn:RegressionBN",
    "simreg": "compress_ssl.pipeline.distill.objectives.simreg:SimReg",
    "seed": "compress_ssl.pipeline.distill.objectives.seed:SEED",
    "crd": "compress_ssl.pipeline.distill.objectives.crd:CRD",
    "cc": "compress_ssl.pipeline.distill.objectives.cluster_classification:ClusterClassification",
}  # by name, ``module:Class``. The default of an option that several have is that of the first one here.

DEFAULT_OBJECTIVE: Final = "compress-2q"
