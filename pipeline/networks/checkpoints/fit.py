"""Weights of another image size or writer, fitted to a network by the conversion of its library.

timm converts the names of OpenAI's CLIP and OpenCLIP, DINOv2, EVA, Perception Encoders, AIMv2 and RADIO
(``checkpoint_filter_fn`` of each of its modules, release 1.0.31), torchvision has ``interpolate_embeddings``.
"""

import contextlib
import io
import logging
import sys
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

PATCHES = "patch_embed.proj.weight"  # timm also resamples it to another patch size, which makes another network

logger = logging.getLogger(__name__)


def fitted(module: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights as the library of a network would load them; unchanged if it cannot convert them.

    Position embeddings are interpolated to the network's image size, which is logged. Biases of zero that the network
    does not have are left out: timm has DINOv3 with and without them.
    """
    wanted = module.state_dict().keys()
    given = {
        key: tensor
        for key, tensor in weights.items()
        if key in wanted or not key.endswith(("q_bias", "v_bias")) or tensor.any()
    }
    storages = {tensor.untyped_storage().data_ptr() for tensor in given.values()}
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # timm prints
            converted = _converted(module, dict(given))
        made = [key for key in converted.keys() & wanted if converted[key].untyped_storage().data_ptr() not in storages]
    except Exception:  # whatever another project's weights lead to: what does not fit is said by the caller
        logger.debug("The weights cannot be converted.", exc_info=True)
        return given
    if PATCHES in made:
        return given
    for key in sorted(made):
        if "pos_embed" in key:
            logger.info(
                "%s is interpolated to the network's image size: %s.", key, " x ".join(map(str, converted[key].shape))
            )
    return converted


def _converted(module: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert with the function of the module's library; a copy of the weights, since some take keys out."""
    library: Any = sys.modules[type(module).__module__]
    if hasattr(library, "checkpoint_filter_fn"):
        converted: dict[str, Tensor] = library.checkpoint_filter_fn(weights, module)
        return converted
    if hasattr(library, "interpolate_embeddings") and hasattr(module, "image_size"):
        size: Any = module.image_size
        return dict(library.interpolate_embeddings(size, module.patch_size, OrderedDict(weights)))
    return weights
