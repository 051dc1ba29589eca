#!/usr/bin/env bash
# up.sh FOLDER CPUS MEGABYTES: a SLURM of one node on this machine, for tests; down.sh FOLDER stops it.
#
# Everything stands in FOLDER and runs as the user who calls: nothing in /etc, no systemd, no cgroups, no accounting. The
# node claims the cores and the memory that are asked for, whatever the machine has, and three GPUs of the type "pretend",
# so that jobs are scheduled as on a large node. sbatch and the others find it with SLURM_CONF=FOLDER/slurm.conf and
# FOLDER/bin first in PATH: Snakemake's plugin takes SLURM_CONF from the environment of srun, which has it back there.
set -euo pipefail
folder=$(realpath "$1") cpus=$2 megabytes=$3
node=$(hostname -s)
PATH=$PATH:/usr/sbin:/sbin

for program in munged munge slurmctld slurmd sbatch; do
  command -v "$program" >/dev/null || { echo "$program is not installed (Debian: munge slurmctld slurmd slurm-client)"; exit 1; }
done

mkdir -p "$folder"/{bin,log,munge,spool,state}
chmod 755 "$folder" "$folder/munge"
head -c 128 /dev/urandom >"$folder/munge/key"
chmod 600 "$folder/munge/key"

free_port() { # one that nobody listens to
  local port
  while port=$((20000 + RANDOM % 10000)); do (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break; done
  echo "$port"
}

cat >"$folder/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$node(127.0.0.1)
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket
CredType=cred/munge
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld
SlurmdLogFile=$folder/log/slurmd
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
# Without cgroups, which a container may lack: a job's processes are found by their ancestors
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
# Quick: a job starts as soon as there is room, and a time limit is noticed soon
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0
KillWait=10
MinJobAge=600
ReturnToService=2
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=$node NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=$megabytes Gres=gpu:pretend:3 State=UNKNOWN
PartitionName=batch Nodes=$node Default=YES MaxTime=INFINITE State=UP
PartitionName=gpu Nodes=$node MaxTime=INFINITE State=UP
CONF

# slurmd counts GPUs by their devices, of which CUDA_VISIBLE_DEVICES is made; these are everywhere
for device in null zero full; do
  echo "NodeName=$node Name=gpu Type=pretend File=/dev/$device"
done >"$folder/gres.conf"
echo "CgroupAutomount=no" >"$folder/cgroup.conf"
export SLURM_CONF=$folder/slurm.conf
printf '#!/bin/sh\nSLURM_CONF="%s" exec %s "$@"\n' "$SLURM_CONF" "$(command -v srun)" >"$folder/bin/srun"
# Snakemake asks for its jobs (by their name) after 1 s, 11 s, 21 s, and so on; here the answer comes when another
# job has ended, or after 50 s, for nothing is learnt by waiting
cat >"$folder/bin/squeue" <<SQUEUE
#!/usr/bin/env bash
case "\$*" in *" --name "*) ;; *) exec $(command -v squeue) "\$@" ;; esac
told="$folder/told.\${!#}" # how many had ended at the last answer; the run's name is the last word
for _ in {1..100}; do
  answer=\$($(command -v squeue) "\$@") || exit
  ended=\$(grep -cvE 'PENDING|CONFIGURING|RUNNING|COMPLETING' <<<"\$answer")
  [ "\$ended" = "\$(cat "\$told" 2>/dev/null || echo 0)" ] || break
  sleep 0.5
done
echo "\$ended" >"\$told"
echo "\$answer"
SQUEUE
chmod +x "$folder"/bin/*

within() { # SECONDS COMMAND...: until it succeeds
  local tries=$(($1 * 10))
  shift
  until "$@" >/dev/null 2>&1; do
    ((tries-- > 0)) || { echo "gave up waiting for: $*"; tail -n 5 "$folder"/log/*; exit 1; }
    sleep 0.1
  done
}

getent hosts "$node" >/dev/null || echo "127.0.0.1 $node" >>/etc/hosts
munged --force --key-file="$folder/munge/key" --socket="$folder/munge/socket" --pid-file="$folder/munged.pid" \
  --log-file="$folder/log/munged" --seed-file="$folder/munge/seed" 2>>"$folder/log/munged"
within 10 munge --no-input --socket="$folder/munge/socket"
slurmctld -c 2>>"$folder/log/start"
within 20 scontrol ping
slurmd -N "$node" 2>>"$folder/log/start"
within 20 bash -c '[[ $(sinfo --noheader --partition batch --format %T) =~ ^(idle|mixed|allocated)$ ]]'
