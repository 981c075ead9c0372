//! Datagrams that wait with the system, and those that it dropped because they were not taken in time.
//!
//! It must never read the system's lists itself: the programs do, and pass their text. The hard case is a text that is cut or of
//! another system: it says nothing, and no number is made up.

/// Bytes of datagrams that a socket asks the system to keep while its program does not run. The system counts its own overhead as well
/// (768 bytes at least for each), doubles what it is asked for, and gives no more than twice `net.core.rmem_max`, which is often
/// 212,992.
pub const WAITING_BYTES: usize = 4 << 20;
/// Where Linux lists the sockets for datagrams of a process's network, of IPv4 and IPv6.
pub const SOCKET_LISTS: [&str; 2] = ["/proc/self/net/udp", "/proc/self/net/udp6"];

/// Columns of a list; proc_pid_net(5) names them.
const INODE: usize = 9;
const DROPS: usize = 12;

/// What the system dropped of the socket with this inode, by a list of [`SOCKET_LISTS`]; none when it is not listed there.
pub fn drops_of(list: &str, inode: u64) -> Option<u64> {
    let lines = list.lines().skip(1);
    let column = |line: &str, index| line.split_whitespace().nth(index)?.parse::<u64>().ok();
    column(lines.filter(|line| column(line, INODE) == Some(inode)).last()?, DROPS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_the_socket_is_found_and_what_is_no_list_says_nothing() {
        let list = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
                    10: 0100007F:24E3 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4711 2 0000000000000000 3\n\
                    11: 0100007F:24E4 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4712 2 0000000000000000 9\n\
                    12: 0100007F:24E5 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4713";
        assert_eq!([4711, 4712, 4713, 3].map(|inode| drops_of(list, inode)), [Some(3), Some(9), None, None]);
        assert_eq!(drops_of("", 4711), None);
    }
}
