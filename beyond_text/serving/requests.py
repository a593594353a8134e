"""Reads a search from JSON or from a form, and refuses in one line what is none."""

from __future__ import annotations

import binascii
from typing import Annotated, Any

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from beyond_text.serving.limits import MAX_FILTER, MAX_FILTERS, MAX_TEXT, MAX_TOP

JSON, FORM = "application/json", "multipart/form-data"
Filter = Annotated[str, StringConstraints(min_length=1, max_length=MAX_FILTER)]
Filters = Annotated[list[Filter], Field(max_length=MAX_FILTERS)]


class SearchRequest(BaseModel):
    """What is looked for: words, a picture or both."""

    model_config = ConfigDict(extra="forbid")

    text: str = Field("", max_length=MAX_TEXT, description="Words; beside a picture or alone.")
    picture: str | None = Field(
        None,
        description="JPEG, PNG, WebP, GIF, BMP or TIFF in base64; in a form, the file itself.",
        json_schema_extra={"contentEncoding": "base64"},
    )
    filters: Filters = Field(
        [], description="All must hold: `category=vase|bowl`, `price<50`, `in_stock`."
    )
    top: int = Field(24, ge=1, le=MAX_TOP, description="Products that are returned at most.")
    weight: float | None = Field(
        None,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="1: by vectors alone; 0: by words alone; default: the index's own.",
    )
    index: str | None = Field(None, max_length=200, description="Its name; default: the first.")


def problem(error: ValidationError | Any) -> str:
    """Returns the first fault that pydantic or FastAPI found, on one line."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if part not in ("query", "path"))
    return f"{place}: {first['msg']}" if place else str(first["msg"])


async def read_search(request: Request) -> tuple[SearchRequest, bytes | None]:
    """Returns a checked search, and the bytes of its picture.

    Raises:
        HTTPException: 400 where the body cannot be read, 415 where it is neither JSON nor a form,
            422 where it asks for what cannot be.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == JSON:
        search, picture = _of_json(await request.body())
    elif media_type == FORM:
        search, picture = await _of_form(request)
    else:
        raise HTTPException(415, f"expected {JSON} or {FORM}, got {media_type or 'nothing'}")
    if not search.text.strip() and picture is None:
        raise HTTPException(422, "nothing to look for: expected a text or a picture")
    if search.weight is not None and search.weight < 1 and not search.text.strip():
        raise HTTPException(422, f"a weight of {search.weight:g} needs a text: words are compared")
    return search, picture


def _of_json(body: bytes) -> tuple[SearchRequest, bytes | None]:
    try:
        search = SearchRequest.model_validate_json(body, strict=True)
    except ValidationError as error:
        status = 400 if error.errors()[0]["type"] == "json_invalid" else 422
        raise HTTPException(status, problem(error)) from error
    if search.picture is None:
        return search, None
    try:
        return search, binascii.a2b_base64(search.picture, strict_mode=True)
    except ValueError as error:
        raise HTTPException(422, f"picture: expected base64: {error}") from error


async def _of_form(request: Request) -> tuple[SearchRequest, bytes | None]:
    try:
        form = await request.form(max_files=1, max_fields=MAX_FILTERS + 10)
    except (UnicodeError, ValueError, KeyError) as error:
        raise HTTPException(400, "the form cannot be read") from error
    picture = form.get("picture")
    try:
        content = await picture.read() if isinstance(picture, UploadFile) else None
        return _fields(form), content
    finally:
        await form.close()


def _fields(form: FormData) -> SearchRequest:
    """Returns the fields of a form; those that are left empty are not given."""
    fields: dict[str, Any] = {"filters": [text for text in form.getlist("filters") if text]}
    for name, value in form.multi_items():
        if name == "filters" or (name == "picture" and isinstance(value, UploadFile)):
            continue
        if not isinstance(value, str) or name in fields:
            raise HTTPException(422, f"{name}: expected one text, got a file or several")
        if value:
            fields[name] = value
    if "picture" in fields:
        raise HTTPException(422, "picture: expected a file, got a text")
    try:
        return SearchRequest.model_validate(fields)
    except ValidationError as error:
        raise HTTPException(422, problem(error)) from error
