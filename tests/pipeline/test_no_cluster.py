"""Where SLURM's own tools cannot ask its controller."""

from __future__ import annotations

import pytest

from pipeline import sbatch
from pipeline.sbatch import JobsRefusedError, LaterError
from tests.pipeline import test_sbatch
from tests.pipeline.test_sbatch import Cluster, sleepers

cluster = test_sbatch.cluster
UNSET = "scontrol: fatal: Unable to process configuration file"
DOWN = "slurm_load_ctl_conf error: Unable to contact slurm controller (connect failure)"


@pytest.mark.parametrize(("said", "error"), [(UNSET, JobsRefusedError), (DOWN, LaterError)])
def test_what_waiting_does_not_mend_is_refused_and_a_controller_that_is_down_is_waited_for(
    said: str, error: type[Exception], cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = cluster.project / "bin" / "scontrol"
    tool.write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 1\n")
    tool.chmod(0o755)
    monkeypatch.setattr(sbatch, "max_array_size", lambda: None)
    cells = sleepers(2)
    with pytest.raises(error) as raised:
        cluster.send(cells)
    assert type(raised.value) is error
    assert said in str(raised.value)
    assert cluster.states(cells) == ["missing", "missing"]
