# Installs jobplan from the source of the action into an environment of its own, which is put on the PATH of later steps.
set -euo pipefail
"$PYTHON" -m venv "$RUNNER_TEMP/jobplan"
"$RUNNER_TEMP/jobplan/bin/python" -m pip install --quiet --disable-pip-version-check "$SOURCE"
mkdir -p "$RUNNER_TEMP/jobplan/path"
ln -sf ../bin/jobplan "$RUNNER_TEMP/jobplan/path/jobplan"  # the PATH gets jobplan, and no other Python
echo "$RUNNER_TEMP/jobplan/path" >> "$GITHUB_PATH"
version=$("$RUNNER_TEMP/jobplan/bin/jobplan" --version)
echo "version=${version#jobplan }" >> "$GITHUB_OUTPUT"
