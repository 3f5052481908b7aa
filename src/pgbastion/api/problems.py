"""Errors as clients see them: ``{"error": {"code", "message", "remedy"}}``."""

from dataclasses import dataclass
from http import HTTPStatus

from starlette.responses import JSONResponse


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why a request got no answer, and what to do about it."""

    status: HTTPStatus
    code: str
    message: str
    remedy: str

    def response(self, **headers: str) -> JSONResponse:
        """Render it; ``headers`` are added, underscores standing for dashes."""
        error = {"code": self.code, "message": self.message, "remedy": self.remedy}
        return JSONResponse(
            {"error": error},
            status_code=self.status,
            headers={name.replace("_", "-"): value for name, value in headers.items()},
        )


class ProblemError(Exception):
    """Ends the handling of a request with a problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


def bad_request(message: str, remedy: str) -> ProblemError:
    """Return the error for a request that says something impossible."""
    return ProblemError(
        Problem(
            status=HTTPStatus.BAD_REQUEST,
            code="bad_request",
            message=message,
            remedy=remedy,
        )
    )
