"""Routes that load and unload models while the server runs; for keys that may."""

from fastapi import APIRouter, Depends, Request

from service.context import ContextDep
from service.errors import ServiceError
from service.keys import require_admin
from service.openapi import CONTROL_ERRORS
from service.problems import problem
from service.schemas import ModelVersion, Problem, Reloaded


async def _check_admin(request: Request) -> None:
    require_admin(request.scope)


control = APIRouter(
    prefix="/v1/models",
    tags=["model control"],
    dependencies=[Depends(_check_admin)],
    responses=CONTROL_ERRORS,
)


@control.post("/reload", operation_id="reload_models")
async def reload_models(request: Request, context: ContextDep) -> Reloaded:
    """Make the models those of the repository: load what is new or changed, unload what is gone."""
    problems: dict[str, Problem] = {}

    def report(label: str, error: ServiceError) -> None:
        problems[label] = Problem.model_validate(problem(error, request.scope))

    changed = await context.control.run(context.models.reload, report)
    return Reloaded(changed=changed, problems=problems)


@control.post("/{name}/versions/{version}/load", operation_id="load_model")
async def load_model(name: str, version: str, context: ContextDep) -> ModelVersion:
    """Load a version from the repository, anew if it is there already; answers when it is warm."""
    model = await context.control.run(context.models.load, name, version)
    return model.describe()


@control.post("/{name}/versions/{version}/unload", operation_id="unload_model", status_code=204)
async def unload_model(name: str, version: str, context: ContextDep) -> None:
    """Forget a version once its requests are answered."""
    await context.control.run(context.models.unload, name, version)
