//! Finds out which process holds which TCP connection, and what a process uses, without privileges.

use std::fs;

/// A line of `/proc/net/tcp`, as far as it is of use here.
struct Socket {
    local_port: u16,
    remote_port: u16,
    established: bool,
    inode: String,
}

fn sockets() -> Vec<Socket> {
    let table = fs::read_to_string("/proc/net/tcp").expect("these tests need /proc");
    table.lines().skip(1).filter_map(parse).collect()
}

fn parse(line: &str) -> Option<Socket> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let port = |field: &str| u16::from_str_radix(field.rsplit(':').next()?, 16).ok();
    Some(Socket {
        local_port: port(fields.get(1)?)?,
        remote_port: port(fields.get(2)?)?,
        established: *fields.get(3)? == "01",
        inode: (*fields.get(9)?).to_owned(),
    })
}

fn holds(pid: u32, inode: &str) -> bool {
    let wanted = format!("socket:[{inode}]");
    let Ok(open_files) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    open_files
        .flatten()
        .any(|file| fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == wanted.as_str()))
}

/// Which of `pids` holds the connection from `local_port` to `remote_port`.
pub(crate) fn dialler(pids: &[(usize, u32)], local_port: u16, remote_port: u16) -> Option<usize> {
    let all = sockets();
    let socket = all.iter().find(|socket| socket.local_port == local_port && socket.remote_port == remote_port)?;
    pids.iter().find(|(_, pid)| holds(*pid, &socket.inode)).map(|(index, _)| *index)
}

/// Which of `pids` has an open connection that it made to `remote_port`.
pub(crate) fn connected_to(pids: &[(usize, u32)], remote_port: u16) -> Option<usize> {
    let open = sockets().into_iter().filter(|socket| socket.established && socket.remote_port == remote_port);
    open.flat_map(|socket| pids.iter().find(|(_, pid)| holds(*pid, &socket.inode)).map(|(index, _)| *index)).next()
}

/// The resident memory of a process, and the most that it ever was, in bytes; None when it is gone.
pub(crate) fn memory_bytes(pid: u32) -> Option<(u64, u64)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line.trim_start_matches(':').trim().trim_end_matches("kB").trim().parse().ok()?;
        Some(kib * 1024)
    };
    Some((bytes("VmRSS")?, bytes("VmHWM")?))
}

/// How many files and sockets a process has open.
pub(crate) fn open_files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// The CPU time of a process, in seconds: fields 14 and 15 of its `stat`, in the ticks that Linux shows, 100 a second.
pub(crate) fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
    let after_name = stat.rsplit_once(')').expect("a name in parentheses").1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<f64>().expect("a number");
    (ticks(11) + ticks(12)) / 100.0
}
