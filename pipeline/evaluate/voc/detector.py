"""torchvision's Faster R-CNN (Ren et al. 2015) around a network, with the network's own layers where possible.

================  ==========================  =========  =============================
network           backbone                    pooled to  head
================  ==========================  =========  =============================
AlexNet           up to conv5                 6 x 6      fc6 and fc7
ResNet            up to its third stage (C4)  14 x 14    its fourth stage, averaged
ResNet, pyramid   all, to 256 channels each   7 x 7      two new ones of 1024 features
================  ==========================  =========  =============================

Batch norm keeps the running statistics of the network: a step has too few images for new ones. Its weights are trained
like all others.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import AlexNet, ResNet
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.evaluate.settings import VocDetectSettings
from compress_ssl.pipeline.networks.network import Network

STAGES = ("layer1", "layer2", "layer3", "layer4")
PYRAMID_LEVELS = len(STAGES) + 1
PYRAMID_CHANNELS, PYRAMID_FEATURES = 256, 1024

ASPECT_RATIOS = (0.5, 1.0, 2.0)

TEST_PROPOSALS = 300  # proposals per test image (Ren et al. 2015; py-faster-rcnn, ``TEST.RPN_POST_NMS_TOP_N``).

NMS_THRESHOLD = 0.3  # IoU threshold of non-maximum suppression (py-faster-rcnn, ``TEST.NMS``)


def build_detector(network: Network, classes: int, settings: VocDetectSettings) -> FasterRCNN:
    """Build a detector from a copy of the network; its new layers are initialised from the seed.

    The detector numbers the object classes from 1, since 0 is the background.

    Raises:
        InputError: If the network's architecture or a setting does not allow it.
    """
    module = copy.deepcopy(network.module).cpu()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        backbone, pooled_side, head, features = _parts(module, network, settings)
        is_pyramid = settings.scales == "fpn"
        levels = PYRAMID_LEVELS if is_pyramid else 1
        anchor_sizes = tuple((size,) for size in settings.anchor_sizes) if is_pyramid else (settings.anchor_sizes,)
        if len(anchor_sizes) != levels:
            raise InputError(
                f"A feature pyramid has {levels} levels and needs as many --anchor-sizes, from small to large; "
                f"{len(anchor_sizes)} were given."
            )
        detector = FasterRCNN(
            backbone,
            min_size=settings.min_size,
            max_size=settings.max_size,
            image_mean=network.preprocessing.mean,
            image_std=network.preprocessing.std,
            rpn_anchor_generator=AnchorGenerator(anchor_sizes, (ASPECT_RATIOS,) * levels),
            rpn_post_nms_top_n_test=TEST_PROPOSALS,
            box_roi_pool=MultiScaleRoIAlign(
                [str(level) for level in range(max(1, levels - 1))], output_size=pooled_side, sampling_ratio=2
            ),
            box_head=head,
            box_predictor=FastRCNNPredictor(features, classes + 1),
            box_nms_thresh=NMS_THRESHOLD,
            box_batch_size_per_image=settings.regions,
        )
    for predictor in (detector.rpn.head, detector.roi_heads.box_predictor):
        predictor.register_forward_hook(_in_float32)
    return detector


def _in_float32(module: nn.Module, inputs: Any, outputs: Any) -> Any:
    """Cast predictions to float32: torchvision computes boxes in their dtype, and bfloat16 has only every 4th pixel."""
    if isinstance(outputs, Tensor):
        return outputs.float()
    return type(outputs)(_in_float32(module, inputs, each) for each in outputs)


def set_training(detector: FasterRCNN) -> None:
    """Set training mode, in which the detector returns losses, but keep batch norm in evaluation mode."""
    detector.train()
    for layer in detector.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()


def _parts(module: nn.Module, network: Network, settings: VocDetectSettings) -> tuple[nn.Module, int, nn.Module, int]:
    """Return backbone, side of its pooled map, head and features of the head, as listed in the table above."""
    if isinstance(module, ResNet) and settings.scales == "fpn":
        layers = {stage: str(level) for level, stage in enumerate(STAGES)}
        channels = [network.feature_dim // 8 * 2**level for level in range(len(STAGES))]  # they double at each stage
        pyramid = BackboneWithFPN(module, layers, channels, PYRAMID_CHANNELS)
        return pyramid, 7, TwoMLPHead(PYRAMID_CHANNELS * 7 * 7, PYRAMID_FEATURES), PYRAMID_FEATURES
    if isinstance(module, ResNet):
        stem = (module.conv1, module.bn1, module.relu, module.maxpool)
        backbone = nn.Sequential(*stem, module.layer1, module.layer2, module.layer3)
        backbone.out_channels = network.feature_dim // 2  # type: ignore[assignment]  # torch types it as a module
        head = nn.Sequential(module.layer4, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return backbone, 14, head, network.feature_dim
    if isinstance(module, AlexNet) and settings.scales == "single":
        backbone = module.features[:-1]
        backbone.out_channels = 256
        return backbone, 6, nn.Sequential(nn.Flatten(), module.classifier), network.feature_dim
    if isinstance(module, AlexNet):
        raise InputError(
            f"{network.architecture} has one scale only; use --scales single, since a feature pyramid needs a ResNet."
        )
    raise InputError(
        f"A detector cannot be built around {network.architecture}; use AlexNet or one of torchvision's ResNets "
        "(resnet18, resnet50, resnext50_32x4d, resnet50-w2, ...), also with -32px."
    )
