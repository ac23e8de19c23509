"""Options that several objectives share. No torch here: settings and ``--help`` read them.

Annotations of an objective's options are evaluated in this module's namespace (``read_signature``).
"""

from typing import Annotated, Literal

from compress_ssl.pipeline.common.settings import result_option

Precision = Literal["float32", "bfloat16", "float16"]

HeadName = Literal["none", "linear", "mlp", "mlp-2", "mlp-gelu"]
"""Head between the student's feature and what is compared (``networks.heads``)."""

Temperature = Annotated[float, result_option("Temperature of the softmax over similarities", gt=0)]

TeacherTemperature = Annotated[
    float | None, result_option("Temperature of the teacher's softmax, by default the student's", gt=0)
]

BankSize = Annotated[int, result_option("Embeddings in each memory bank; at most the images of the split", ge=1)]

BankPrecision = Annotated[
    Precision,
    result_option("Precision of the memory banks and of the products with them; half precision halves the memory"),
]

MaskOwn = Annotated[bool, result_option("Mask the query's own entries in the memory banks")]

Centre = Annotated[bool, result_option("Subtract the mean of the teacher's embeddings (of view 0) before comparing")]
