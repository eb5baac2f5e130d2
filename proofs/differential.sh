#!/usr/bin/env bash
# Behaves as Redis 7.0: random requests to both servers, every reply and every state compared.
# One line per family (value: requests compared, bar: 20,000 without a difference; 150,000 are played)
# and last the number of families without a difference. The seed is new each time and stands in
# the lines; HOLDFAST_DIFFERENTIAL_SEED repeats one.
. "$(dirname "$0")/../scripts/lib.sh"

# Not to be shortened: a line of a shorter run would pass for this one.
export HOLDFAST_DIFFERENTIAL_CASES=150000
bar=20000
export HOLDFAST_DIFFERENTIAL_SEED="${HOLDFAST_DIFFERENTIAL_SEED:-$(date +%s%N)}"
proof="${HOLDFAST_PROOF:-differential}"
families=8
report="$(mktemp)"
trap 'rm -f "$report"' EXIT
export HOLDFAST_DIFFERENTIAL_REPORT="$report"

status=0
cargo test "${cargo_flags[@]}" -p holdfast --test differential -- --nocapture || status=$?

# A family with a difference counts as 0 requests: its line is then not met.
clean=0
while IFS= read -r line; do
    value="$(python3 -c 'import json, sys; f = json.loads(sys.argv[1]); print(0 if f["differences"] else f["requests"])' "$line")"
    if python3 scripts/measured.py write "$proof" --value "$value" --at-least "$bar" \
        --unit requests --seed "$HOLDFAST_DIFFERENTIAL_SEED" --detail "$line"; then
        clean=$((clean + 1))
    fi
done <"$report"

# The directed tests have no line of their own: one that fails takes the last line with it.
if [ "$status" -ne 0 ] && [ "$clean" -eq "$families" ]; then clean=0; fi
python3 scripts/measured.py write "$proof" --value "$clean" --exactly "$families" --unit "families without a difference" \
    --seed "$HOLDFAST_DIFFERENTIAL_SEED" --detail "{\"requests_each\": $HOLDFAST_DIFFERENTIAL_CASES}"
