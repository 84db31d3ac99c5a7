"""`noiselab tokenize`: encode a corpus once and write its tokens to disk."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    from ..data import Corpus


@dataclass(frozen=True)
class Options:
    """Encode texts and write blocks of tokens to disk, which `noiselab.data.TokenShards` reads. Started again after it was
    stopped, the same command continues.
    """

    corpus: Annotated[list[str], tyro.conf.Positional, tyro.conf.arg(metavar="CORPUS")]
    """files, folders or glob patterns; or one hub:NAME (a Hugging Face data set), library:prose or library:sources"""
    tokenizer: str
    """a tokenizer: a folder or a Hub name, such as gpt2"""
    output: Path
    """the folder of the shards"""
    length: int
    """tokens per block"""
    mode: Literal["concatenate", "document"] = "concatenate"
    """concatenate: texts are joined and cut into blocks; document: one text per block, cut to the length"""
    field: str = "text"
    """name of the field with the text, for documents with fields"""
    split: str = "train"
    """the split of a data set of the Hub"""
    validation: float = 0.0
    """fraction of the texts that is held out, by a hash of each text; shards are then in OUTPUT/train and OUTPUT/validation"""
    shard_tokens: int = 2**25
    """tokens per file"""
    quiet: bool = False
    """show no progress"""


def main(options: Options) -> dict[str, Any]:
    """Write the shards, print what they hold, and return it."""
    from ..data import hold_out, load_tokenizer, write_shards

    corpus = _corpus(options)
    parts = {"": corpus}
    if options.validation:
        parts = dict(zip(("train", "validation"), hold_out(corpus, options.validation), strict=True))
    tokenizer = load_tokenizer(options.tokenizer)
    found: dict[str, Any] = {}
    for name, texts in parts.items():
        folder = options.output / name
        with _Progress(texts, name, options.quiet) as progress:
            shards = write_shards(
                texts,
                tokenizer,
                folder,
                options.length,
                mode=options.mode,
                shard_tokens=options.shard_tokens,
                progress=progress,
            )
        found[str(folder)] = {"blocks": len(shards), "tokens": shards.real_tokens, "key": shards.key}
        print(f"{folder}: {shards}")
    return found


class _Progress:
    """A bar of the parts of a corpus that are done; it shows the number of blocks."""

    def __init__(self, corpus: "Corpus", name: str, quiet: bool) -> None:
        from tqdm.auto import tqdm

        self.bar = tqdm(total=len(corpus.parts()), unit="part", desc=name or None, disable=quiet)

    def __enter__(self) -> Callable[[int, int], None]:
        return self.update

    def update(self, blocks: int, part: int) -> None:
        """Show that the parts before this one are done."""
        self.bar.set_postfix_str(f"{blocks:,} blocks", refresh=False)
        self.bar.update(part - self.bar.n)

    def __exit__(self, *error: Any) -> None:
        if error[0] is None:
            self.bar.update(self.bar.total - self.bar.n)
        self.bar.close()


def _corpus(options: Options) -> "Corpus":
    from ..data import FileCorpus, HubCorpus, standard_library

    names = options.corpus
    found = [re.match(r"(hub|library):(.+)", name) for name in names]
    if any(found) and len(names) > 1:
        raise ValueError(f"a corpus must be files, or one hub:NAME or library:NAME; got {names}")
    if found and (kind := found[0]):
        if kind[1] == "library":
            return standard_library(kind[2], "all")
        return HubCorpus(kind[2], split=options.split, field=options.field)
    return FileCorpus(names, field=options.field)
