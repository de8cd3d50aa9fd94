//! What the machine is, and how much memory a job may take: a hostile model ends in a message, not in a killed process.

/// The most bytes that tensors may hold: `--max-memory`, else four fifths of what the machine and the process's own
/// limit leave.
pub(crate) fn memory_limit(max_memory: Option<u64>) -> usize {
    let limit = max_memory.map_or_else(|| address_limit().min(physical()) / 5 * 4, |mib| mib.saturating_mul(1 << 20));
    usize::try_from(limit).unwrap_or(usize::MAX)
}

#[cfg(unix)]
fn address_limit() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::As).current.unwrap_or(u64::MAX)
}

#[cfg(not(unix))]
fn address_limit() -> u64 {
    u64::MAX
}

/// Memory that the system says is available now; unlimited where it does not say.
fn physical() -> u64 {
    let Ok(info) = std::fs::read_to_string("/proc/meminfo") else { return u64::MAX };
    let line = info.lines().find_map(|l| l.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|l| l.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.map_or(u64::MAX, |k| k.saturating_mul(1024))
}

/// What the system calls this CPU.
pub(crate) fn cpu_name() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = info.lines().find_map(|l| l.strip_prefix("model name")?.split_once(':'));
    line.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}
