"""The exit code of each kind of error."""

from __future__ import annotations

from sightline import errors

EXIT_CODES: dict[type[errors.SightlineError], int] = {
    errors.InputError: 2,
    errors.NotFound: 2,
    errors.TooManyFailures: 3,
    errors.StorageError: 4,
    errors.VerificationError: 5,
    errors.ConfigurationError: 78,
    errors.TrainingStopped: 1,
    errors.ServiceError: 1,
}
"""0 is success, 1 an error of ours, 130 an interrupt; subclasses share their parent's code."""


def exit_code_of(error: type[errors.SightlineError]) -> int:
    """The documented exit code of an error class."""
    return next((EXIT_CODES[parent] for parent in error.__mro__ if parent in EXIT_CODES), 1)
