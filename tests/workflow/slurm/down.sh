#!/usr/bin/env bash
# down.sh FOLDER: end the jobs and the daemons that up.sh FOLDER started, by their process ids.
set -uo pipefail
folder=$(realpath "$1")
export SLURM_CONF=$folder/slurm.conf

alive() { # a zombie, which nobody may be there to bury, is not
  [[ -r /proc/$1/status ]] && ! grep -q '^State:[[:space:]]*Z' "/proc/$1/status"
}

if [ -s "$folder/slurmctld.pid" ] && alive "$(cat "$folder/slurmctld.pid")"; then
  scancel --signal=KILL --full --state=RUNNING --user="$(id -un)"
  scancel --state=PENDING --user="$(id -un)"
fi
for daemon in slurmd slurmctld munged; do
  [ -s "$folder/$daemon.pid" ] || continue
  pid=$(cat "$folder/$daemon.pid")
  alive "$pid" && kill "$pid"
  for _ in $(seq 100); do
    alive "$pid" || break
    sleep 0.1
  done
  alive "$pid" && kill -KILL "$pid"
done
exit 0
