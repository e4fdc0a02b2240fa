"""The web application: MONAI Label's, with errors that say what to do, and threads for what takes long."""

from __future__ import annotations

import inspect
import json
import logging
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import monailabel.app
from fastapi import APIRouter, Depends, File, Form, HTTPException, Request, UploadFile
from fastapi.background import BackgroundTasks
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from monailabel.config import settings
from monailabel.endpoints import activelearning, batch_infer, datastore, infer, info, model, scoring, session, train
from monailabel.endpoints.infer import ResultType, send_response
from monailabel.endpoints.user.auth import RBAC
from monailabel.interfaces.exception import ImageNotFoundException, LabelNotFoundException, MONAILabelException
from monailabel.interfaces.utils.app import app_instance
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from monai_hyper.data.volumes import SUFFIXES
from monai_hyper.label.app import HyperLabelApp
from monai_hyper.label.results import as_dicom_seg
from monai_hyper.label.start import allowed_hosts
from monai_hyper.label.tasks import NotYet
from monai_hyper.types import InputError

logger = logging.getLogger(__name__)

app = monailabel.app.app

_SLOW = (activelearning, batch_infer, datastore, infer, info, model, scoring, session, train)
"""Their functions are declared asynchronous but wait for nothing: they would stop the server while they compute."""


def in_thread(endpoint: Callable) -> Callable:
    """The same endpoint as a plain function, which the server runs in a thread of its own."""

    def call(*args: object, **options: object) -> object:
        try:
            endpoint(*args, **options).send(None)
        except StopIteration as done:
            return done.value
        raise RuntimeError(f"{endpoint.__name__} waits for something; it has to stay asynchronous.")

    call.__name__, call.__doc__ = endpoint.__name__, endpoint.__doc__
    call.__signature__ = inspect.signature(endpoint, eval_str=True)  # and no __wrapped__, which would show through
    return call


def run_infer(
    background_tasks: BackgroundTasks,
    model: str,
    image: str = "",
    session_id: str = "",
    params: Annotated[str, Form()] = "{}",
    file: Annotated[UploadFile | None, File()] = None,
    output: ResultType | None = None,
) -> Response:
    """Segment a scan of the datastore, of a session, or one that comes with the request."""
    instance = app_instance()
    request = {**_object(params), "model": model, "image": image}
    if file is not None:
        with _received(file) as path:
            return _answer({**request, "image": str(path)}, output, background_tasks)
    if session_id:
        found = instance.sessions() and instance.sessions().get_session(session_id)
        if not found:
            raise HTTPException(404, f"session '{session_id}': there is none. Make one with PUT /session/.")
        request["image"] = found.image
    elif not image:
        raise HTTPException(400, "expected an image's id, a session's id or a file, found none of them.")
    return _answer(request, output, background_tasks)


def add_image(file: Annotated[UploadFile, File()], image: str = "", params: Annotated[str, Form()] = "{}") -> dict:
    """Add a scan to the datastore."""
    with _received(file) as path:
        name = image or (file.filename or "").removesuffix("".join(path.suffixes))
        return {"image": app_instance().datastore().add_image(name, str(path), _object(params))}


def save_label(
    label: Annotated[UploadFile, File()], image: str, params: Annotated[str, Form()] = "{}", tag: str = "final"
) -> dict:
    """Save a label map; with the tag "final" it becomes an example."""
    instance = app_instance()
    with _received(label) as path:
        label_id = instance.datastore().save_label(image, str(path), tag or "final", _object(params))
    instance.on_save_label(image, label_id)
    return {"image": image, "label": label_id}


def _object(params: str) -> dict:
    try:
        asked = json.loads(params or "{}")
    except json.JSONDecodeError:
        asked = None
    if not isinstance(asked, dict):
        raise InputError(f"params: expected a JSON object, found {params[:80]!r}.")
    return asked


@contextmanager
def _received(file: UploadFile) -> Iterator[Path]:
    """An uploaded file, as long as it is needed and no longer."""
    folder = app_instance().uploads
    folder.mkdir(parents=True, exist_ok=True)
    name = (file.filename or "").lower()
    known = [ending for ending in (*SUFFIXES, ".bin") if name.endswith(ending)]
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = Path(place) / f"upload{known[0] if known else Path(name).suffix or '.nii.gz'}"
        with path.open("wb") as target:
            shutil.copyfileobj(file.file, target)
        yield path


def _answer(request: dict, output: ResultType | None, tasks: BackgroundTasks) -> Response:
    instance = app_instance()
    if output == ResultType.dicom_seg:
        return _dicom_seg(instance, request)
    return send_response(instance.datastore(), instance.infer(request), output, tasks)


def _dicom_seg(instance: HyperLabelApp, request: dict) -> Response:
    series = instance.datastore().series_folder(request["image"])
    result = instance.infer({**request, "result_extension": ".nii.gz"})
    path = Path(result["file"])
    try:
        keep = instance.conf.get("keep_identifiers") == "true"
        return Response(
            as_dicom_seg(path, result["params"]["label_names"], series, keep), media_type="application/dicom"
        )
    finally:
        path.unlink()


def _explained(status: int) -> Callable:
    def handler(request: Request, error: Exception) -> JSONResponse:
        text = getattr(error, "msg", None) or str(error)
        for folder in {str(Path(tempfile.gettempdir())), str(app_instance().state)}:
            text = text.replace(f"{folder}/", "")
        return JSONResponse({"detail": text}, status)

    return handler


def _install() -> None:
    router = APIRouter()
    signed_in = [Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))]
    router.add_api_route("/infer/{model}", run_infer, methods=["POST"], response_model=None, dependencies=signed_in)
    annotator = [Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR))]
    router.add_api_route("/datastore/image", add_image, methods=["PUT"], dependencies=annotator)
    router.add_api_route("/datastore/label", save_label, methods=["PUT"], dependencies=annotator)
    for each in _SLOW:
        for route in each.router.routes:
            if isinstance(route, APIRoute) and inspect.iscoroutinefunction(route.endpoint):
                router.add_api_route(route.path, in_thread(route.endpoint), methods=list(route.methods))
    app.include_router(router)
    app.router.routes.insert(0, app.router.routes.pop())  # the first that fits answers
    for kind, status in (
        (NotYet, 409), (InputError, 400), (ImageNotFoundException, 404), (LabelNotFoundException, 404),
        (MONAILabelException, 404), (json.JSONDecodeError, 400), (tarfile.TarError, 400), (shutil.ReadError, 400),
    ):  # fmt: skip
        app.add_exception_handler(kind, _explained(status))
    tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)  # uploaded archives stay in their folder
    # web pages of others cannot read answers; the viewer may call this server by its other name
    own = rf"http://(127\.0\.0\.1|localhost):{settings.MONAI_LABEL_SERVER_PORT}"
    app.user_middleware = [each for each in app.user_middleware if each.cls is not CORSMiddleware]
    app.add_middleware(CORSMiddleware, allow_origin_regex=own, allow_methods=["*"], allow_headers=["*"])
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=allowed_hosts())


_install()
