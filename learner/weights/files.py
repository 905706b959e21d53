"""The model's small files, for actors that have no model: read once, served in chunks over the control socket."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError, WireError
from common.messages import MAX_MODEL_FILE_BYTES, ModelFile, ModelFiles, PullFiles
from common.model_files import MODEL_FILE_NAMES, check_listing, set_digest
from common.weights import digest_of


@dataclass(frozen=True)
class ServedFiles:
    """`data` is all files one after the other, in the order of `files`; `digest` names the set."""

    files: list[ModelFile]
    data: bytes
    digest: str

    @classmethod
    def of(cls, model: str) -> ServedFiles:
        """The files of a model's directory, or of a hub name that is in the cache. UserError when it has no
        config.json, or a file is too large to be sent."""
        files: list[ModelFile] = []
        contents: list[bytes] = []
        for name in MODEL_FILE_NAMES:
            path = _find(model, name)
            if path is None:
                continue
            content = path.read_bytes()
            if len(content) > MAX_MODEL_FILE_BYTES:
                raise UserError(
                    f"{path}: {len(content)} bytes are more than actors are sent ({MAX_MODEL_FILE_BYTES}); "
                    "give the actors the model and set actor.model_from=disk"
                )
            files.append(ModelFile(name=name, size_bytes=len(content), digest=digest_of(content)))
            contents.append(content)
        try:
            check_listing(files)
        except WireError as error:
            raise UserError(f"model {model} cannot be sent to actors (actor.model_from=learner): {error}") from None
        return cls(files, b"".join(contents), set_digest(files))

    def answer(self, pull: PullFiles) -> tuple[ModelFiles, bytes]:
        """Reply and its `chunk`. A peer that began with another set is answered from the beginning of this one."""
        start = pull.offset if pull.model == self.digest else 0
        chunk = self.data[start : start + pull.max_bytes]
        header = ModelFiles(
            files=self.files, model=self.digest, offset=min(start, len(self.data)), request_id=pull.request_id
        )
        return header, chunk


def _find(model: str, name: str) -> Path | None:
    folder = Path(model).expanduser()
    if folder.is_dir():
        path = folder / name
        return path if path.is_file() else None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(model, name)
    except HFValidationError:
        return None
    return Path(cached) if isinstance(cached, str) else None
