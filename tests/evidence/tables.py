"""Write the tables of docs/results.md from the JSON beside it: ``python -m tests.evidence.tables``.

A table follows a comment that names the results and the scores: ``<!-- methods: NN, Linear -->``.
"""

import re
from typing import Any

from tests.evidence.figures import DOCS, groups_of

PAGE = DOCS / "results.md"

TABLE = re.compile(r"(?P<head><!-- (?P<name>[\w-]+): (?P<columns>[^>]+) -->\n)(?:\|.*\n)*")

LABELS = {
    "embed": "teacher",
    "simclr": "from scratch (SimCLR), same images seen",
    "moco-v2": "from scratch (MoCo v2), same images seen",
    "supervised": "from scratch, supervised by labels",
    "cc": "CC",
    "crd": "CRD",
    "reg": "Reg",
    "reg-bn": "Reg-BN",
    "simreg": "SimReg",
    "seed": "SEED",
    "unic": "UNIC",
    "koleo": "KoLeo",
    "bingo": "BINGO",
    "2q": "CompRess-2q",
    "1q": "CompRess-1q",
    "2q-masked": "CompRess-2q, `--mask-own`",
    "1q-masked": "CompRess-1q, `--mask-own`",
    "mixed": "stored, mixup",
    "cached": "the published code's cached mode",
    "reg-bn-rate": "Reg-BN",
    "reg-bn-mlp": "Reg-BN, `--head mlp`",
    "reg-bn-long": "Reg-BN, 60 epochs",
    "reg-bn-live": "Reg-BN, 60 epochs, a new view each epoch",
    "reg-bn-all": "Reg-BN, all images",
    "1q-own": "CompRess-1q, own rows kept",
    "1q-rate": "CompRess-1q",
    "1q-temperature": "CompRess-1q",
    "1q-teacher-temperature": "CompRess-1q, temperature 0.1",
    "1q-mlp": "CompRess-1q, `--head mlp`",
    "1q-centre": "CompRess-1q, `--centre`",
    "1q-bank": "CompRess-1q",
    "1q-long": "CompRess-1q, 60 epochs",
    "1q-live": "CompRess-1q, 60 epochs, a new view each epoch",
    "1q-all": "CompRess-1q, all images",
    "1q-own-all": "CompRess-1q, all images, own rows kept",
    "reg-sgd": "Reg, SGD",
    "crd-long": "CRD, 60 epochs",
}
"""What the page calls the tables of the recipes."""


def label(group: dict[str, Any]) -> str:
    """Return what the page calls a group of networks: its table, and the swept values but the seed."""
    table = group["table"]
    name = f"{table.removeprefix('random/')} untrained" if table.startswith("random/") else LABELS.get(table, table)
    return ", ".join([name, *(f"{field.replace('_', ' ')} {value}" for field, value in group["values"].items())])


def cell(score: dict[str, Any] | None) -> str:
    """Return a mean and its standard deviation over seeds, where there are some."""
    if score is None:
        return ""
    spread = score["standard_deviation"]
    return f"{score['mean']:.1f}" + ("" if spread is None else f" ± {spread:.1f}")


def table(name: str, columns: list[str]) -> str:
    """Return a sweep's scores in Markdown, a row for each group; raise ValueError if a column has none."""
    groups = groups_of(name)
    if unknown := set(columns).difference(*(group["scores"] for group in groups)):
        raise ValueError(f"{name}.json has no scores {unknown}")
    rows = [["", *columns], ["---"] * (1 + len(columns))]
    rows += [[label(group), *(cell(group["scores"].get(each)) for each in columns)] for group in groups]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def with_tables(page: str) -> str:
    """Return a page with the tables that its comments ask for."""
    return TABLE.sub(lambda found: found["head"] + table(found["name"], found["columns"].split(", ")), page)


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
