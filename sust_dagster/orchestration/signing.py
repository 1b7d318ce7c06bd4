"""The transparency log's head, signed every day: what can be kept elsewhere.

Belongs here: the job. Does not belong here: checkpoints (``world.checkpoint``), the log (``world.transparency``).
"""

from datetime import UTC, datetime

import dagster as dg

from sust_dagster.orchestration.resources import ProjectResource
from sust_dagster.settings import Project
from sust_dagster.world.books import Books
from sust_dagster.world.checkpoint import Verifier, load_signer
from sust_dagster.world.lake import Lake
from sust_dagster.world.transparency import Signed, sign_log


def sign_head(project: Project) -> tuple[Signed, Verifier]:
    """Sign for the log as it is now, and what to check it with; what a crash left out of it gets its leaf first.

    Raises ``LogError`` where the log does not extend every checkpoint that is there.
    """
    signer = load_signer(project.log_key, keep_out_of=[project.lake_root])
    with Books(project.books_address) as books:
        signed = sign_log(books, Lake(project.lake_root), project.checkpoints_root, signer, datetime.now(UTC))
    return signed, signer.verifier


def build() -> dg.JobDefinition:
    """The daily job."""

    @dg.op(description="Hash the whole log anew, hold it against every earlier checkpoint, and sign its head.")
    def sign_log_head(context: dg.OpExecutionContext, project: ProjectResource) -> None:
        signed, _ = sign_head(project.project)
        kind = "new" if signed.new else "as before"
        context.log.info("%d entries, %s: %s", signed.checkpoint.size, kind, signed.path)

    @dg.job(description="A signed checkpoint of the transparency log; keep a copy in another place.")
    def sign_log_checkpoint() -> None:
        sign_log_head()

    return sign_log_checkpoint
