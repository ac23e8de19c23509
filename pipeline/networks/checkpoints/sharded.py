"""Checkpoints in shards, one for each process that trained, or one for each few gigabytes: what consolidates them."""

from pathlib import Path

from compress_ssl.pipeline.common.errors import InputError

SHARDS = {
    "*.distcp": "a checkpoint of torch.distributed in shards; consolidate it by 'python -m "
    "torch.distributed.checkpoint.format_utils dcp_to_torch {folder} FILE'",
    "*zero_pp_rank_*": "a checkpoint of DeepSpeed's ZeRO in shards; consolidate it by the script zero_to_fp32.py that "
    "DeepSpeed writes beside it",
    "*.index.json": "a network of Hugging Face in shards; write it as one file by save_pretrained(FOLDER, "
    "max_shard_size='1TB')",
}  # patterns of file names, to what the files are


def refuse_shards(path: Path) -> None:
    """Raise ``InputError`` for a shard, or a folder that holds shards; says how to consolidate them."""
    folder = path if path.is_dir() else path.parent
    for pattern, advice in SHARDS.items():
        if any(folder.glob(pattern)) if path.is_dir() else path.match(pattern):
            raise InputError(f"'{path}' is {'of ' if path.is_file() else ''}{advice.format(folder=folder)}.")
