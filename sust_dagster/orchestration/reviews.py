"""The review of decisions as a job of its own.

Belongs here: one run that lets governance decide what has come to its time, between the daily plans. Does not belong
here: what is decided (``decision_desk``).
"""

import dagster as dg

from sust_dagster.orchestration.decision_desk import DecisionDesk
from sust_dagster.orchestration.resources import ProjectResource


def build() -> dg.JobDefinition:
    """The job."""

    @dg.op
    def review_proposals(context: dg.OpExecutionContext, project: ProjectResource) -> None:
        result = DecisionDesk(project.handle("governance")).review(project.project.present())
        context.log.info(
            "approved %d, rejected %d, expired %d; %d wait for people",
            len(result.approved), len(result.rejected), len(result.expired), len(result.waiting),
        )  # fmt: skip

    @dg.job(description="Approves what has its signatures; silence and overdue approvals expire.")
    def review_decisions() -> None:
        review_proposals()

    return review_decisions
