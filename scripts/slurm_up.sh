#!/usr/bin/env bash
# Starts a SLURM of one node, this machine, with all its files in one folder; stops it again.
#   eval "$(bash scripts/slurm_up.sh FOLDER)"     start, and set SLURM_CONF and PATH
#   bash scripts/slurm_up.sh --stop FOLDER        stop
# Needs root, slurm-wlm and munge. Ports 6817 and 6818 of the loopback device: one at a time.
set -euo pipefail

if [ "${1:-}" = --stop ]; then
    for name in slurmd slurmctld munge/munged; do
        [ ! -e "$2/$name.pid" ] || kill "$(cat "$2/$name.pid")" 2>/dev/null || true
    done
    exit 0
fi

folder=$(realpath -m "$1")
host=$(hostname -s)
memory=$(($(awk '/MemTotal/ {print $2}' /proc/meminfo) / 1024 - 512))
mkdir -p "$folder"/{munge,run,state,spool,log,bin}
chmod 755 "$folder"
chmod 700 "$folder/munge"
dd if=/dev/urandom bs=128 count=1 of="$folder/munge/key" status=none
chmod 600 "$folder/munge/key"

# cred_expire=5, the least allowed: a job queued again waits that long, 121 s by default. KillWait:
# seconds from SIGTERM to SIGKILL. MinJobAge: how long ended jobs are remembered, for sacct below.
cat >"$folder/slurm.conf" <<CONF
ClusterName=ci
SlurmctldHost=$host(127.0.0.1)
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
AuthInfo=socket=$folder/run/munge.sock,cred_expire=5
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
SlurmctldPort=6817
SlurmdPort=6818
SrunPortRange=60001-60200
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_min_interval=0,bf_interval=1,sched_interval=1,batch_sched_delay=0
DefMemPerCPU=500
JobRequeue=1
ReturnToService=2
KillWait=10
MinJobAge=600
InactiveLimit=0
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(getconf _NPROCESSORS_ONLN) RealMemory=$memory State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
CONF

# There is no accounting in so small a cluster: what is asked of sacct, squeue can answer.
cat >"$folder/bin/sacct" <<'SHIM'
#!/usr/bin/env bash
ids=()
while [ $# -gt 0 ]; do
    [ "$1" != -j ] || ids+=("$2")
    shift
done
echo 'JobID|State|NodeList'
[ ${#ids[@]} -eq 0 ] || squeue -h -r -t all -j "$(IFS=,; echo "${ids[*]}")" -o '%i|%T|%N' 2>/dev/null
exit 0
SHIM
chmod 755 "$folder/bin/sacct"

munged --force --socket="$folder/run/munge.sock" --key-file="$folder/munge/key" \
    --pid-file="$folder/munge/munged.pid" --log-file="$folder/log/munged.log" \
    --seed-file="$folder/munge/seed" >&2
export SLURM_CONF="$folder/slurm.conf"
# The daemons keep standard output open: it is not to be the one that is read with eval.
slurmctld -c -f "$SLURM_CONF" >"$folder/log/start.log" 2>&1
slurmd -f "$SLURM_CONF" >>"$folder/log/start.log" 2>&1
for _ in $(seq 300); do
    [ "$(sinfo -h -o %t 2>/dev/null)" != idle ] || break
    sleep 0.1
done
if [ "$(sinfo -h -o %t)" != idle ]; then
    tail -n 20 "$folder"/log/*.log >&2
    echo "SLURM did not start; its logs are above" >&2
    bash "$0" --stop "$folder"
    exit 1
fi
echo "export SLURM_CONF='$SLURM_CONF' PATH='$folder/bin:$PATH'"
