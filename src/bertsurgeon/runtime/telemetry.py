"""OpenVINO and NNCF report their use to Intel, and keep an identifier in the home folder, unless someone declines."""


def decline_telemetry() -> None:
    """Declines the telemetry of OpenVINO and NNCF for this process; the user's own settings stay as they are."""
    try:
        from openvino_telemetry.utils.opt_in_checker import ConsentCheckResult, OptInChecker
    except ImportError:  # without this package they send nothing
        return
    OptInChecker.check = lambda *_, **__: ConsentCheckResult.DECLINED
