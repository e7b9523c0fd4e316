//! Filters for OS-sensors: tcpdump's language, compiled by libpcap, which is loaded when the first one comes.
//!
//! Names are never resolved, so libpcap is given none: a word that is neither of its language nor a number is refused
//! before. A filter that does not say `vlan` is for frames whose outermost tag is not there, as on a live interface.
#![expect(unsafe_code, reason = "libpcap is C")]

use libloading::{Library, Symbol};
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;
use thymus_dissect::bpf::Program;
use thymus_record::policy::{FILTER_TEXT_MAX, Instruction, PROGRAM_MAX};

/// As Debian and Red Hat name it.
const LIBRARIES: [&str; 3] = ["libpcap.so.0.8", "libpcap.so.1", "libpcap.so"];
const ETHERNET: c_int = 1;
/// What an accepted packet returns: all of it.
const SNAPLEN: c_int = 262_144;
const NETMASK_UNKNOWN: u32 = 0xffff_ffff;

/// Words of tcpdump's language for Ethernet, those that take names left out.
const WORDS: &str = "src dst host net mask port portrange proto ether ip ip6 arp rarp tcp udp sctp icmp icmp6 igmp igrp \
    pim vrrp carp ah esp less greater len length broadcast multicast and or not byte vlan mpls pppoed pppoes geneve vni \
    aarp atalk decnet lat moprc mopdl iso stp ipx netbeui clnp esis isis es-is is-is \
    icmptype icmpcode icmp-echoreply icmp-unreach icmp-sourcequench icmp-redirect icmp-echo icmp-routeradvert \
    icmp-routersolicit icmp-timxceed icmp-paramprob icmp-tstamp icmp-tstampreply icmp-ireq icmp-ireqreply icmp-maskreq \
    icmp-maskreply icmp6type icmp6code icmp6-destinationrunreach icmp6-packettoobig icmp6-timeexceeded \
    icmp6-parameterproblem icmp6-echo icmp6-echoreply icmp6-multicastlistenerquery icmp6-multicastlistenerreportv1 \
    icmp6-multicastlistenerdone icmp6-routersolicit icmp6-routeradvert icmp6-neighborsolicit icmp6-neighboradvert \
    icmp6-redirect icmp6-routerrenum icmp6-multicastlistenerreportv2 \
    tcpflags tcp-fin tcp-syn tcp-rst tcp-push tcp-ack tcp-urg tcp-ece tcp-cwr";

/// A compiled filter.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct Compiled {
    /// Its instructions; none: everything is taken.
    pub program: Vec<Instruction>,
    /// It looks at VLAN tags.
    pub sees_tags: bool,
}

/// Compiles a filter, or says why it is none.
pub fn compile(text: &str) -> Result<Compiled, String> {
    if text.trim().is_empty() {
        return Ok(Compiled::default());
    }
    let sees_tags = look_at_words(text)?;
    let program = instructions_of(text)?;
    // What is pushed to agents is what they will take.
    Program::parse(&program, PROGRAM_MAX).map_err(|error| format!("{}: {error}", shown(text)))?;
    Ok(Compiled { program, sees_tags })
}

fn shown(text: &str) -> String {
    let short: String = text.chars().take(80).collect();
    format!("'{short}'")
}

/// Refuses what libpcap would resolve; tells whether VLAN tags are looked at.
fn look_at_words(text: &str) -> Result<bool, String> {
    if text.len() > FILTER_TEXT_MAX || text.contains('\0') {
        return Err(format!("a filter has at most {FILTER_TEXT_MAX} bytes, and no NUL"));
    }
    let of_word = |letter: char| letter.is_alphanumeric() || matches!(letter, '.' | ':' | '-' | '_');
    let mut sees_tags = false;
    for word in text.split(|letter| !of_word(letter)) {
        let word = word.trim_matches('-').to_ascii_lowercase();
        if word.is_empty() || is_number(&word) {
            continue;
        }
        if !WORDS.split_whitespace().any(|known| known == word) {
            return Err(format!(
                "{}: '{word}' is no word of a filter; names of hosts, networks and services are not resolved: write addresses and numbers",
                shown(text)
            ));
        }
        sees_tags |= word == "vlan";
    }
    Ok(sees_tags)
}

/// A number, an address, a net or a range: nothing that libpcap would look up.
fn is_number(word: &str) -> bool {
    let all = |letters: &str| word.chars().all(|letter| letters.contains(letter));
    let is_hex = word.strip_prefix("0x").is_some_and(|hex| hex.chars().all(|letter| letter.is_ascii_hexdigit()));
    all("0123456789.-") || is_hex || (word.contains(':') && all("0123456789abcdef:.")) || is_mac(word)
}

fn is_mac(word: &str) -> bool {
    let parts: Vec<&str> = word.split('-').collect();
    parts.len() == 6 && parts.iter().all(|part| matches!(part.len(), 1 | 2) && u8::from_str_radix(part, 16).is_ok())
}

#[repr(C)]
struct RawProgram {
    length: c_uint,
    instructions: *mut RawInstruction,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct RawInstruction {
    code: u16,
    jt: u8,
    jf: u8,
    k: u32,
}

type OpenDead = unsafe extern "C" fn(c_int, c_int) -> *mut c_void;
type Compile = unsafe extern "C" fn(*mut c_void, *mut RawProgram, *const c_char, c_int, u32) -> c_int;
type LastError = unsafe extern "C" fn(*mut c_void) -> *const c_char;
type FreeCode = unsafe extern "C" fn(*mut RawProgram);
type Close = unsafe extern "C" fn(*mut c_void);

fn library() -> Result<&'static Library, String> {
    static LIBRARY: OnceLock<Option<Library>> = OnceLock::new();
    // SAFETY: libpcap's initialisers do nothing that other threads could see.
    let load = || LIBRARIES.iter().find_map(|name| unsafe { Library::new(name) }.ok());
    let found = LIBRARY.get_or_init(load).as_ref();
    found.ok_or_else(|| {
        "this vSensor has no libpcap, which compiles filters: install it (apt install libpcap0.8)".into()
    })
}

fn symbol<T>(name: &'static str) -> Result<Symbol<'static, T>, String> {
    // SAFETY: the caller names the type that libpcap declares for this symbol, and the library is never unloaded.
    unsafe { library()?.get(name.as_bytes()) }.map_err(|error| format!("this vSensor's libpcap has no {name}: {error}"))
}

/// A handle that can compile and nothing else; closed when it goes.
struct Handle(*mut c_void);

impl Handle {
    fn open() -> Result<Handle, String> {
        let open: Symbol<'_, OpenDead> = symbol("pcap_open_dead")?;
        // SAFETY: takes plain numbers.
        let handle = unsafe { open(ETHERNET, SNAPLEN) };
        if handle.is_null() { Err("libpcap gives no handle: out of memory".to_owned()) } else { Ok(Handle(handle)) }
    }

    fn last_error(&self) -> String {
        let Ok(last) = symbol::<LastError>("pcap_geterr") else { return "unknown".to_owned() };
        // SAFETY: the handle is open, and its text ends in NUL and lives as long as it; it is copied here.
        unsafe { CStr::from_ptr(last(self.0)) }.to_string_lossy().into_owned()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Ok(close) = symbol::<Close>("pcap_close") {
            // SAFETY: opened by `open`, closed once.
            unsafe { close(self.0) };
        }
    }
}

fn instructions_of(text: &str) -> Result<Vec<Instruction>, String> {
    let handle = Handle::open()?;
    let (compile, free): (Symbol<'_, Compile>, Symbol<'_, FreeCode>) =
        (symbol("pcap_compile")?, symbol("pcap_freecode")?);
    let expression = CString::new(text).map_err(|error| error.to_string())?;
    let mut raw = RawProgram { length: 0, instructions: std::ptr::null_mut() };
    // SAFETY: the handle is open, the program is ours to be filled in, and the text ends in NUL.
    let done = unsafe { compile(handle.0, &raw mut raw, expression.as_ptr(), 1, NETMASK_UNKNOWN) };
    if done != 0 {
        return Err(format!("{} is no filter: {}", shown(text), handle.last_error()));
    }
    let length = usize::try_from(raw.length).unwrap_or(0);
    let instructions = if raw.instructions.is_null() || length == 0 {
        Vec::new()
    } else {
        // SAFETY: libpcap filled in so many instructions, which stay until they are freed below.
        let raw = unsafe { std::slice::from_raw_parts(raw.instructions, length) };
        raw.iter().map(|each| Instruction { code: each.code, jt: each.jt, jf: each.jf, k: each.k }).collect()
    };
    // SAFETY: filled in by `pcap_compile`, freed once.
    unsafe { free(&raw mut raw) };
    Ok(instructions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[repr(C)]
    struct PacketHead {
        seconds: libc::timeval,
        captured: u32,
        wire: u32,
    }

    /// What libpcap's own interpreter says.
    fn by_libpcap(program: &[Instruction], packet: &[u8]) -> u32 {
        type Run = unsafe extern "C" fn(*const RawProgram, *const PacketHead, *const u8) -> c_int;
        let run: Symbol<'_, Run> = symbol("pcap_offline_filter").unwrap();
        let mut raw: Vec<RawInstruction> =
            program.iter().map(|i| RawInstruction { code: i.code, jt: i.jt, jf: i.jf, k: i.k }).collect();
        let raw = RawProgram { length: c_uint::try_from(raw.len()).unwrap(), instructions: raw.as_mut_ptr() };
        let len = u32::try_from(packet.len()).unwrap();
        let head = PacketHead { seconds: libc::timeval { tv_sec: 0, tv_usec: 0 }, captured: len, wire: len };
        // SAFETY: program, head and packet live over the call, and their lengths are given.
        u32::from_ne_bytes(unsafe { run(&raw const raw, &raw const head, packet.as_ptr()) }.to_ne_bytes())
    }

    /// How many bytes of a packet the kernel lets through: it runs the same programs on any socket.
    fn by_kernel(program: &[Instruction], packet: &[u8]) -> usize {
        use std::os::fd::AsRawFd;
        let (sender, receiver) = std::os::unix::net::UnixDatagram::pair().unwrap();
        let code = |i: &Instruction| libc::sock_filter { code: i.code, jt: i.jt, jf: i.jf, k: i.k };
        let mut code: Vec<libc::sock_filter> = program.iter().map(code).collect();
        let program = libc::sock_fprog { len: u16::try_from(code.len()).unwrap(), filter: code.as_mut_ptr() };
        let len = libc::socklen_t::try_from(size_of::<libc::sock_fprog>()).unwrap();
        // SAFETY: the program lives over the call, which copies it, and its size is given.
        let done = unsafe {
            let value = (&raw const program).cast();
            libc::setsockopt(receiver.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, value, len)
        };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
        receiver.set_nonblocking(true).unwrap();
        sender.send(packet).unwrap();
        receiver.recv(&mut [0; 256]).unwrap_or(0)
    }

    const FILTERS: [&str; 22] = [
        "arp",
        "tcp port 80",
        "not tcp port 7443",
        "udp and (port 53 or port 5353)",
        "host 10.0.0.1",
        "src net 10.0.0.0/8 and not dst port 22",
        "ip6 host fe80::1",
        "portrange 1000-2000",
        "vlan 7 and tcp",
        "vlan",
        "ether host 02:00:00:00:00:01",
        "tcp[tcpflags] & (tcp-syn|tcp-fin) != 0",
        "ip[2:2] > 576",
        "icmp[icmptype] == icmp-echo",
        "less 100",
        "greater 100",
        "ip proto 17",
        "ip multicast",
        "mpls",
        "tcp[((tcp[12] & 0xf0) >> 2)] = 0x47",
        "sctp or esp",
        "ether broadcast or ether multicast",
    ];

    /// Bytes in which the fields that filters look at have likely values.
    fn packet() -> impl Strategy<Value = Vec<u8>> {
        let kinds = prop::sample::select(vec![[8u8, 0], [8, 6], [0x86, 0xdd], [0x81, 0], [0x88, 0x47], [0, 40]]);
        let protos = prop::sample::select(vec![6u8, 17, 1, 58, 132, 50, 0]);
        let ports = prop::sample::select(vec![80u16, 53, 22, 7443, 1500, 9]);
        (kinds, protos, ports, prop::collection::vec(any::<u8>(), 0..120)).prop_map(|(kind, proto, port, rest)| {
            let mut packet = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, kind[0], kind[1]];
            let at = if kind == [0x81, 0] { 4 } else { 0 };
            if at == 4 {
                packet.extend([0, 7, 8, 0]);
            }
            packet.extend(&rest);
            for (place, value) in
                [(14, 0x45), (23, proto), (20, proto), (26, 10), (30, 10)].map(|(place, value)| (place + at, value))
            {
                if let Some(byte) = packet.get_mut(place) {
                    *byte = value;
                }
            }
            if let Some(ports) = packet.get_mut(36 + at..38 + at) {
                ports.copy_from_slice(&port.to_be_bytes());
            }
            packet
        })
    }

    proptest! {
        #[test]
        fn our_interpreter_says_what_libpcap_and_the_kernel_say(at in 0..FILTERS.len(), packet in packet(), cut in 0usize..140) {
            let packet = packet.get(..cut).unwrap_or(&packet);
            let compiled = compile(FILTERS[at]).unwrap();
            let program = Program::parse(&compiled.program, PROGRAM_MAX).unwrap();
            let ours = program.run(packet, u32::try_from(packet.len()).unwrap());
            prop_assert_eq!(ours, by_libpcap(&compiled.program, packet), "{}", FILTERS[at]);
            prop_assert_eq!((ours as usize).min(packet.len()), by_kernel(&compiled.program, packet), "{}", FILTERS[at]);
        }

        #[test]
        fn any_program_that_we_take_means_the_same_to_libpcap(
            steps in prop::collection::vec(
                (any::<prop::sample::Index>(), 0u8..4, 0u8..4, prop_oneof![0u32..40, any::<u32>()]), 1..30),
            packet in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            const CODES: [u16; 41] = [
                0x00, 0x20, 0x28, 0x30, 0x40, 0x48, 0x50, 0x60, 0x80, 0x01, 0x61, 0x81, 0xb1, 0x02, 0x03, 0x04, 0x0c,
                0x14, 0x1c, 0x24, 0x2c, 0x34, 0x3c, 0x44, 0x4c, 0x54, 0x5c, 0x64, 0x74, 0x94, 0x9c, 0xa4, 0xac, 0x84,
                0x05, 0x15, 0x1d, 0x25, 0x35, 0x45, 0x07,
            ];
            let mut program: Vec<Instruction> = steps.iter()
                .map(|(code, jt, jf, k)| Instruction { code: *code.get(&CODES), jt: *jt, jf: *jf, k: *k })
                .collect();
            program.extend([1, 2, 3, 4, 5].map(|k| Instruction { code: 6, jt: 0, jf: 0, k }));
            if let Ok(ours) = Program::parse(&program, PROGRAM_MAX) {
                let len = u32::try_from(packet.len()).unwrap();
                prop_assert_eq!(ours.run(&packet, len), by_libpcap(&program, &packet));
            }
        }
    }

    #[test]
    fn wrong_filters_get_a_sentence_and_names_are_never_resolved() {
        for (text, says) in [
            ("tcp prot 80", "'prot' is no word of a filter"),
            ("host www.example.com", "not resolved"),
            ("port http", "not resolved"),
            ("host 10.0.0.1.evil", "not resolved"),
            ("tcp and", "is no filter"),
            ("port 70000", "is no filter"),
            ("(tcp", "is no filter"),
            ("inbound", "'inbound' is no word"),
            ("tcp\0", "no NUL"),
            (&"tcp or ".repeat(2_000), "at most"),
        ] {
            let said = compile(text).unwrap_err();
            assert!(said.contains(says) && said.len() < 400, "{text:?}: {said}");
        }
        assert_eq!(compile(" "), Ok(Compiled::default()));
        assert!(compile("vlan 5").unwrap().sees_tags && !compile("tcp").unwrap().sees_tags);
    }
}
