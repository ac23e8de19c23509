"""``compress-ssl models``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from compress_ssl.cli.groups import example
from compress_ssl.cli.output import echo, json_option, print_result

if TYPE_CHECKING:
    from compress_ssl.pipeline.networks.catalogue import Description

NORMALISATIONS = {
    ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)): "ImageNet",
    ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)): "[0, 1]",
    ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)): "[-1, 1]",
}


@click.command(
    "models",
    epilog=example(
        "compress-ssl models --students",
        "compress-ssl models timm/vit_small_patch14_dinov2.lvd142m",
        "compress-ssl models 'timm/*dinov3*' 'resnet50*'",
    ),
)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--teachers", is_flag=True, help="List teachers whose published weights can be read.")
@click.option("--students", is_flag=True, help="List recommended students.")
@json_option
def command(names: tuple[str, ...], teachers: bool, students: bool, as_json: bool) -> None:
    """List teachers and students, or describe any network.

    NAME is a teacher, an architecture, torchvision/NAME or timm/NAME; * and ? are wildcards. FLOPs count convolutions
    and matrix products for one image at the default size, two per multiply-add, without the classifier. Weights of
    teachers that are not from torchvision or timm are read from a file: NAME:PATH, or NAME:PATH#KEY for one of several
    state dicts in it. MODULE:FUNCTION is a function that returns a torch.nn.Module and its preprocessing; --teachers
    also lists those that installed packages have registered.
    """
    from compress_ssl.cli.progress import TerminalProgress
    from compress_ssl.pipeline.networks import catalogue
    from compress_ssl.pipeline.networks.teachers import TEACHERS

    everything = not (teachers or students or names)
    work = []
    if teachers or everything:
        work += [("teachers", catalogue.describe_network, name) for name in TEACHERS]
    if students or everything:
        work += [("students", catalogue.describe_student, name) for name in catalogue.STUDENTS]
    for pattern in names:
        work += [("networks", catalogue.describe_network, name) for name in catalogue.matching_names(pattern)]

    of_packages = catalogue.networks_of_packages() if teachers or everything else []
    described: dict[str, list[Description]] = {}
    with TerminalProgress().track("networks", len(work), "networks") as advance:
        for title, describe, name in work:
            described.setdefault(title, []).append(describe(name))
            advance(1)

    def show() -> None:
        for title, group in described.items():
            width = max(len(each.name) for each in group)  # names are never cut
            echo(f"{title:<{width}}  features  M parameters    GFLOP  pixels  preprocessing")
            for each in group:
                seen = each.preprocessing
                normalisation = NORMALISATIONS.get((seen.mean, seen.std), "other mean")
                preprocessing = f"{normalisation}, {seen.interpolation} to {seen.resize}"
                line = (
                    f"{each.name:<{width}}  {each.feature_dim:>8}  {each.parameters / 1e6:>12.1f}  "
                    f"{each.flops / 1e9:>7.2f}  {seen.size:>6}  {preprocessing:<28}  {each.note}"
                )
                echo(line.rstrip())
        if of_packages:
            echo("teachers of packages: name, package, function")
            for name, package, function in of_packages:
                echo(f"{name}, {package}, {function}")

    result: dict[str, Any] = {title: [asdict(each) for each in group] for title, group in described.items()}
    if of_packages:
        result["of_packages"] = [each._asdict() for each in of_packages]
    print_result(result, as_json, show)
