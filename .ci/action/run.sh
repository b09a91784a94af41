# Runs one jobplan command with the inputs of the action, and passes its exit code, the run's id and the reports on.
set -euo pipefail
case "$COMMAND" in
  validate) kinds=(junit=junit.xml markdown=report.md json=findings.json) ;;
  dry-run) kinds=(junit=junit.xml markdown=report.md json=dry-run.json) ;;
  run) kinds=(junit=junit.xml markdown=report.md html=report.html jsonl=events.jsonl) ;;
  *)
    echo "::error title=jobplan::The input command is not validate, dry-run or run."
    exit 2
    ;;
esac
mkdir -p "$REPORTS"
rm -f "$REPORTS/report.md" "$REPORTS/events.jsonl"
words=()
while IFS= read -r line; do if [ -n "$line" ]; then words+=("$line"); fi; done <<< "$PLAN"
while IFS= read -r line; do if [ -n "$line" ]; then words+=(--param "$line"); fi; done <<< "$PARAMS"
while IFS= read -r line; do if [ -n "$line" ]; then words+=("$line"); fi; done <<< "$ARGS"
if [ "$EMBEDDED" = true ]; then words+=(--embedded); fi
for kind in "${kinds[@]}"; do words+=(--report "${kind%%=*}=$REPORTS/${kind#*=}"); done
code=0
PATH="$RUNNER_TEMP/jobplan/path:$PATH" jobplan "$COMMAND" "${words[@]}" || code=$?
run_id=
if [ -s "$REPORTS/events.jsonl" ]; then
  first=$(head -n 1 "$REPORTS/events.jsonl")
  if [[ $first =~ \"run\":\ ?\"([A-Za-z0-9._-]+)\" ]]; then run_id=${BASH_REMATCH[1]}; fi
fi
printf 'exit-code=%s\nrun-id=%s\nreports=%s\n' "$code" "$run_id" "${REPORTS//$'\n'/}" >> "$GITHUB_OUTPUT"
exit "$code"
