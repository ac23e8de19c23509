"""Recommended students; any architecture can be one."""

STUDENTS: dict[str, str] = {
    "alexnet": "the paper's: fc7 after its ReLU, no dropout, no batch norm",
    "resnet18": "the paper's",
    "resnet34": "between the paper's two ResNets",
    "resnet50": "the paper's for SimCLR's ResNet-50x4",
    "mobilenet_v2": "the paper's",
    "mobilenet_v3_small": "fewest operations at 224 pixels",
    "mobilenet_v3_large": "a quarter fewer operations than MobileNet-V2",
    "efficientnet_b0": "the smallest EfficientNet",
    "timm/vit_tiny_patch16_224": "ViT-Ti/16",
    "timm/vit_small_patch16_224": "ViT-S/16",
    "alexnet-32px": "3 x 3 first convolution, no third max-pool",
    "resnet18-32px": "3 x 3 first convolution, no max-pool",
    "mobilenet_v2-32px": "first convolution of stride 1",
    "resnet18-narrow-32px": "half the channels, first convolution of stride 2: trains on a CPU",
}  # remarks by architecture
