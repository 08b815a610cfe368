//! What a stage sees and may from inside its container: printed by a script, judged here.

use std::collections::BTreeMap;

use slipway_core::pipeline::Sandbox as Profile;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use super::{Bench, Report, word};
use crate::sandbox::profile::confine;

/// Prints `name value`, one per line. `try name command…` prints `yes` or `no`.
const SCRIPT: &str = r#"
status() { grep "^$1:" /proc/self/status | tr -s '\t ' ' ' | cut -d' ' -f2; }
first() { cat "$@" 2>/dev/null | head -n 1; }
try() { n=$1; shift; if "$@" >/dev/null 2>&1; then echo "$n yes"; else echo "$n no"; fi; }
echo "caps $(status CapBnd)"
echo "no_new_privileges $(status NoNewPrivs)"
echo "seccomp $(status Seccomp)"
echo "uid $(id -u)"
echo "pids $(first /sys/fs/cgroup/pids.max /sys/fs/cgroup/pids/pids.max)"
echo "memory $(first /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes)"
echo "nofile $(ulimit -n)"
try workspace touch /workspace/probe
try root touch /probe
try mount mount -t tmpfs none /workspace
try device mknod /workspace/disk b 8 0
try sysctl sh -c 'echo x > /proc/sys/kernel/core_pattern'
try trigger sh -c 'echo h > /proc/sysrq-trigger'
try kernel_memory head -c 1 /proc/kcore
limits=/sys/fs/cgroup; test -d $limits/pids && limits=$limits/pids
try cgroup sh -c "mkdir $limits/probe || echo max > $limits/pids.max"
try change_root chroot / true
try engine test -e /var/run/docker.sock
try disks sh -c 'ls /dev | grep -E "^(sd|vd|nvme|xvd|mem|kvm)"'
try host_processes sh -c 'ps | grep -v grep | grep -E "dockerd|containerd|systemd"'
try shared_memory sh -c 'dd if=/dev/zero of=/dev/shm/a bs=1M count=8'
try shared_memory_above sh -c 'dd if=/dev/zero of=/dev/shm/b bs=1M count=70'
cp /bin/busybox /workspace/raise 2>/dev/null && chmod 4755 /workspace/raise 2>/dev/null
echo "raised $(/workspace/raise id -u 2>/dev/null)"
own=$(hostname -i 2>/dev/null | cut -d' ' -f1)
host=$(ip route 2>/dev/null | grep default | cut -d' ' -f3)
(nc -l -p 8099 -e echo hi >/dev/null 2>&1 &)
sleep 1
try itself nc -w 2 "${own:-127.0.0.1}" 8099
try metadata nc -w 2 169.254.169.254 80
try host nc -w 2 "${host:-172.17.0.1}" "$HOST_PORT"
try neighbour nc -w 2 "${NEIGHBOUR:-172.17.0.2}" 8099
echo "network ${host:-none}"
"#;

/// Waits to be called by others of its profile.
const NEIGHBOUR: &str = r#"
own=$(hostname -i | cut -d' ' -f1)
(while :; do nc -l -p 8099 -e echo hi; done) >/dev/null 2>&1 &
sleep 1
if nc -w 2 "$own" 8099 </dev/null >/dev/null; then echo "neighbour $own"; else echo "neighbour -"; fi
sleep 60
"#;

/// The capabilities of the standard profile: CHOWN, DAC_OVERRIDE, FOWNER, SETGID, SETUID.
const STANDARD_CAPS: u64 = 0b1100_1011;

pub(super) async fn try_from_inside(
    bench: &Bench<'_>,
    profile: Profile,
    report: &mut Report,
) -> anyhow::Result<()> {
    // A port of this host that answers whoever may reach it.
    let listener = TcpListener::bind("0.0.0.0:0").await?;
    let port = listener.local_addr()?.port();
    let answering = slipway_daemon::spawn("probe: a port of the host", async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _gone = stream.write_all(b"hi\n").await;
        }
    });
    let reachable = tokio::net::TcpStream::connect(("127.0.0.1", port)).await;
    let control = reachable.is_ok();
    report.add("host", "control: a port of this host answers", control, "");
    let neighbour = bench.begin(Profile::Standard, NEIGHBOUR, &[]).await?;
    let said = bench.read(&neighbour, "neighbour ").await;
    let address = said
        .lines()
        .find_map(|line| line.strip_prefix("neighbour "))
        .unwrap_or("-")
        .to_owned();
    let control = address != "-";
    report.add("host", "control: another stage listens", control, &address);
    let environment = [
        ("HOST_PORT", port.to_string()),
        ("NEIGHBOUR", address.clone()),
    ];
    let executed = bench.execute(profile, SCRIPT, &environment).await;
    bench.end(neighbour).await;
    answering.abort();
    let (text, _) = executed?;
    judge(profile, &text, report);
    Ok(())
}

/// What the script printed, against what the profile promises.
fn judge(profile: Profile, text: &str, report: &mut Report) {
    let facts: BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|line| line.split_once(' '))
        .collect();
    let strict = profile == Profile::Strict;
    let promised = confine(profile);
    let caps = if strict { 0 } else { STANDARD_CAPS };
    let uid = if strict { "65532" } else { "0" };
    let name = word(profile);
    let mut must = |fact: &str, what: &str, good: &dyn Fn(&str) -> bool| {
        let found = facts.get(fact).copied();
        let good = found.is_some_and(good);
        report.add(name, what, good, found.unwrap_or("the probe does not say"));
    };
    must("caps", "capabilities", &|v| {
        u64::from_str_radix(v, 16).is_ok_and(|v| v == caps)
    });
    must("no_new_privileges", "no new privileges", &|v| v == "1");
    must("seccomp", "system calls are filtered", &|v| v == "2");
    must("uid", "user", &|v| v == uid);
    must("raised", "a set-user-id program gains nothing", &|v| {
        v.is_empty() || v == uid
    });
    must("pids", "process limit", &|v| {
        v == promised.limits.pids.to_string()
    });
    must("memory", "memory limit", &|v| {
        v.parse::<u64>()
            .is_ok_and(|v| v <= promised.limits.memory_bytes)
    });
    must("nofile", "open files", &|v| {
        v.parse::<u64>().is_ok_and(|v| v <= promised.limits.nofile)
    });
    let yes = |v: &str| v == "yes";
    let no = |v: &str| v == "no";
    must("workspace", "control: its workspace takes files", &yes);
    if strict {
        must("root", "its root takes no files", &no);
    } else {
        must("root", "control: its root takes files", &yes);
    }
    must("shared_memory", "control: 8 MiB of shared memory", &yes);
    must("itself", "control: it reaches itself", &yes);
    for (fact, what) in [
        ("shared_memory_above", "70 MiB of shared memory are refused"),
        ("mount", "mounting is refused"),
        ("device", "device files are refused"),
        ("sysctl", "kernel settings are read-only"),
        ("trigger", "the kernel's triggers are out of reach"),
        ("kernel_memory", "the kernel's memory is out of reach"),
        ("cgroup", "its own limits are read-only"),
        ("change_root", "changing the root is refused"),
        ("engine", "the container engine's socket is not there"),
        ("disks", "the host's devices are not there"),
        ("host_processes", "the host's processes are not seen"),
        ("metadata", "cloud metadata does not answer"),
        ("host", "this host's ports do not answer"),
        ("neighbour", "another stage does not answer"),
    ] {
        must(fact, what, &no);
    }
    if strict {
        must("network", "it has no network", &|v| v == "none");
    } else {
        must("network", "control: it has a network", &|v| v != "none");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "caps 0000000000000000\nno_new_privileges 1\nseccomp 2\nuid 65532\npids 512\n\
        memory 2147483648\nnofile 1024\nworkspace yes\nroot no\nmount no\ndevice no\nsysctl no\n\
        trigger no\nkernel_memory no\ncgroup no\nchange_root no\nengine no\ndisks no\n\
        host_processes no\nshared_memory yes\nshared_memory_above no\nraised 65532\nitself yes\n\
        metadata no\nhost no\nneighbour no\nnetwork none\n";

    fn bad(text: &str) -> Vec<String> {
        let mut report = Report::default();
        judge(Profile::Strict, text, &mut report);
        let bad = report.findings.into_iter().filter(|f| !f.good);
        bad.map(|f| f.what).collect()
    }

    #[test]
    fn what_the_profile_promises_is_good_and_each_breach_is_seen() {
        assert_eq!(bad(GOOD), Vec::<String>::new());
        for (from, to) in [
            ("caps 0000000000000000", "caps 0000000000000001"),
            ("no_new_privileges 1", "no_new_privileges 0"),
            ("seccomp 2", "seccomp 0"),
            ("uid 65532", "uid 0"),
            ("pids 512", "pids max"),
            ("memory 2147483648", "memory max"),
            ("\nroot no", "\nroot yes"),
            ("mount no", "mount yes"),
            ("engine no", "engine yes"),
            ("metadata no", "metadata yes"),
            ("neighbour no", "neighbour yes"),
            ("raised 65532", "raised 0"),
            ("network none", "network 172.17.0.1"),
            // A control that fails makes the others worthless.
            ("itself yes", "itself no"),
            ("workspace yes", "workspace no"),
        ] {
            assert!(GOOD.contains(from), "{from}");
            assert_eq!(bad(&GOOD.replace(from, to)).len(), 1, "{to}");
        }
    }

    #[test]
    fn a_probe_that_says_nothing_proves_nothing() {
        assert!(bad("").len() > 20);
    }
}
