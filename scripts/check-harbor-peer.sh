#!/bin/sh
# Checks by hand that Harbor itself reads and resumes a job folder of `tmax-ckpt score`.
#
# Needs bubblewrap and a Python 3.12 with `pip install harbor==0.24.0`, named by $HARBOR_PYTHON.
set -eu
cd "$(dirname "$0")/.."
python=${HARBOR_PYTHON:?name the Python that has harbor 0.24.0}
binary=${TMAX_CKPT:-target/debug/tmax-ckpt}
export HARBOR_TELEMETRY=0 LITELLM_LOCAL_MODEL_COST_MAP=True PYTHONPATH=scripts/harbor
job=$(mktemp -d)/job
trap 'rm -rf "$(dirname "$job")"' EXIT
"$binary" score --agent oracle --tasks fixtures/tasks -o "$job"
echo "== Harbor's models read every file, and its digests are ours"
"$python" - "$job" <<'PY'
import json, sys
from pathlib import Path
from harbor.models.job.lock import JobLock, TrialLock
from harbor.models.job.result import JobResult
from harbor.models.trial.config import TrialConfig
from harbor.models.trial.result import TrialResult
from harbor.publisher.packager import Packager

job = Path(sys.argv[1])
JobResult.model_validate_json((job / "result.json").read_text())
lock = JobLock.model_validate_json((job / "lock.json").read_text())
trials = sorted(path.parent for path in job.glob("*/result.json"))
for trial in trials:
    TrialConfig.model_validate_json((trial / "config.json").read_text())
    TrialLock.model_validate_json((trial / "lock.json").read_text())
    result = TrialResult.model_validate_json((trial / "result.json").read_text())
    ours, theirs = result.task_checksum, Packager.compute_content_hash(result.task_id.path)[0]
    assert ours == theirs, (trial.name, ours, theirs)
assert len(trials) == len(lock.trials)
print(f"{len(trials)} trials")
PY
for log in "$job/job.log" "$job"/*__*/trial.log; do [ -s "$log" ] || { echo "no $log"; exit 1; }; done
echo "== Harbor refills a trial that was removed"
removed=$(ls -d "$job"/make-folder__*)
rm -rf "$removed"
"$(dirname "$python")/harbor" job resume -p "$job"
count=$(ls "$job"/*/result.json | wc -l)
[ "$count" -eq "$(ls -d fixtures/tasks/*/ | wc -l)" ] || { echo "only $count trials"; exit 1; }
echo "== and we read the folder that Harbor finished"
"$binary" score import "$job"
echo ok
