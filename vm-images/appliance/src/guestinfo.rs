//! `info-get NAME` over VMware's message channel (RPCI): the guest asks, the hypervisor answers.
//!
//! ```text
//! EBX  what is sent or came     ECX  30 | step << 16; back: status << 16     EDX  port | channel << 16     ESI, EDI  cookie
//! step = 0 open ("RPCI" with the cookie flag) | 1 length | 2 four bytes | 3 ask for the answer's length | 4 four bytes of
//!        it | 5 that it came | 6 close
//! status = 1 good | 2 an answer is there
//! answer = "1 VALUE", or "0 WHY"
//! ```
//!
//! Tested against a model of the other side; it was not tried on VMware.

/// The registers that carry a call and its answer.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Registers {
    /// Data.
    pub ebx: u32,
    /// Command and step; back: status.
    pub ecx: u32,
    /// Port and channel.
    pub edx: u32,
    /// First half of the channel's cookie.
    pub esi: u32,
    /// Second half.
    pub edi: u32,
}

/// Who answers.
pub trait Hypervisor {
    /// One call.
    fn call(&mut self, registers: Registers) -> Registers;
}

const PORT: u32 = 0x5658;
const MESSAGE: u32 = 30;
const RPCI: u32 = 0x4943_5052;
const WITH_COOKIE: u32 = 0x8000_0000;
const GOOD: u32 = 1;
const ANSWERED: u32 = 2;
/// Longest answer taken: an OVF environment is a few KB.
const ANSWER_BYTES_MAX: u32 = 1 << 20;

struct Channel<'a, H: Hypervisor> {
    hypervisor: &'a mut H,
    edx: u32,
    esi: u32,
    edi: u32,
}

impl<'a, H: Hypervisor> Channel<'a, H> {
    fn open(hypervisor: &'a mut H) -> Result<Channel<'a, H>, String> {
        let asked = Registers { ebx: RPCI | WITH_COOKIE, ecx: MESSAGE, edx: PORT, esi: 0, edi: 0 };
        let said = hypervisor.call(asked);
        if said.ecx >> 16 & GOOD == 0 {
            return Err("VMware opens no channel for messages".to_owned());
        }
        Ok(Channel { hypervisor, edx: PORT | said.edx & 0xffff_0000, esi: said.esi, edi: said.edi })
    }

    fn step(&mut self, step: u32, ebx: u32) -> Result<Registers, String> {
        let asked = Registers { ebx, ecx: MESSAGE | step << 16, edx: self.edx, esi: self.esi, edi: self.edi };
        let said = self.hypervisor.call(asked);
        if said.ecx >> 16 & GOOD == 0 { Err(format!("VMware broke off at step {step}")) } else { Ok(said) }
    }

    fn ask(&mut self, words: &str) -> Result<Vec<u8>, String> {
        self.step(1, u32::try_from(words.len()).unwrap_or(u32::MAX))?;
        for part in words.as_bytes().chunks(4) {
            let mut four = [0; 4];
            four.iter_mut().zip(part).for_each(|(to, from)| *to = *from);
            self.step(2, u32::from_le_bytes(four))?;
        }
        let said = self.step(3, 0)?;
        if said.ecx >> 16 & ANSWERED == 0 {
            return Err("VMware gives no answer".to_owned());
        }
        let length = said.ebx;
        if length > ANSWER_BYTES_MAX {
            return Err(format!("VMware's answer of {length} bytes is too long"));
        }
        let mut answer = Vec::new();
        while answer.len() < length as usize {
            answer.extend_from_slice(&self.step(4, GOOD)?.ebx.to_le_bytes());
        }
        answer.truncate(length as usize);
        self.step(5, GOOD)?;
        Ok(answer)
    }
}

impl<H: Hypervisor> Drop for Channel<'_, H> {
    fn drop(&mut self) {
        let _ = self.step(6, 0);
    }
}

/// The value of a name such as `guestinfo.ovfEnv`; `None` where the machine was given none.
pub fn info_get(hypervisor: &mut impl Hypervisor, name: &str) -> Result<Option<String>, String> {
    let answer = Channel::open(hypervisor)?.ask(&format!("info-get {name}"))?;
    let text = String::from_utf8_lossy(&answer);
    match text.split_at_checked(2) {
        Some(("1 ", value)) => Ok(Some(value.to_owned())),
        _ if text.starts_with('0') => Ok(None),
        _ => Err(format!("VMware's answer about {name} makes no sense")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The other side, as the head of this file tells it; it refuses whoever departs from that.
    #[derive(Default)]
    struct Model {
        values: Vec<(String, String)>,
        /// Breaks off at this call.
        breaks: Option<usize>,
        calls: usize,
        open: bool,
        length: usize,
        asked: Vec<u8>,
        answer: Vec<u8>,
        sent: usize,
    }

    const COOKIE: (u32, u32) = (0x1234_5678, 0x9abc_def0);

    impl Model {
        fn answer(&self) -> Vec<u8> {
            let asked = String::from_utf8_lossy(&self.asked).into_owned();
            let name = asked.strip_prefix("info-get ").unwrap();
            let found = self.values.iter().find(|(key, _)| key == name);
            found.map_or("0 No value found".to_owned(), |(_, value)| format!("1 {value}")).into_bytes()
        }
    }

    impl Hypervisor for Model {
        fn call(&mut self, said: Registers) -> Registers {
            self.calls += 1;
            let back = |status: u32, ebx| Registers { ebx, ecx: status << 16, edx: said.edx, ..said };
            if self.breaks == Some(self.calls) {
                return back(0, 0);
            }
            assert_eq!((said.ecx & 0xffff, said.edx & 0xffff), (30, 0x5658));
            if said.ecx >> 16 == 0 {
                assert!(!self.open && said.ebx == 0xc943_5052);
                self.open = true;
                return Registers { ebx: 0, ecx: 1 << 16, edx: 7 << 16, esi: COOKIE.0, edi: COOKIE.1 };
            }
            assert!(self.open && said.edx >> 16 == 7 && (said.esi, said.edi) == COOKIE);
            match said.ecx >> 16 {
                1 => self.length = said.ebx as usize,
                2 => self.asked.extend_from_slice(&said.ebx.to_le_bytes()),
                3 => {
                    assert!(self.asked.len() >= self.length && self.asked.len() < self.length + 4);
                    self.asked.truncate(self.length);
                    self.answer = self.answer();
                    return back(3, u32::try_from(self.answer.len()).unwrap());
                }
                4 => {
                    let mut four = self.answer[self.sent..].to_vec();
                    four.resize(4, 0);
                    self.sent += 4;
                    return back(1, u32::from_le_bytes(*four.first_chunk().unwrap()));
                }
                5 => assert!(self.sent >= self.answer.len()),
                6 => self.open = false,
                other => panic!("step {other}"),
            }
            back(1, 0)
        }
    }

    #[test]
    fn a_machine_without_the_property_says_so_and_the_channel_is_closed() {
        let mut model = Model::default();
        assert_eq!(info_get(&mut model, "guestinfo.ovfEnv"), Ok(None));
        assert!(!model.open);
    }

    #[test]
    fn a_channel_that_breaks_off_anywhere_is_an_error_and_never_a_value() {
        let whole = {
            let mut model = Model { values: vec![("a".into(), "value".into())], ..Model::default() };
            assert_eq!(info_get(&mut model, "a"), Ok(Some("value".into())));
            model.calls
        };
        for breaks in 1..whole {
            let mut model =
                Model { values: vec![("a".into(), "value".into())], breaks: Some(breaks), ..Model::default() };
            assert!(info_get(&mut model, "a").is_err(), "at call {breaks}");
        }
    }

    #[test]
    fn no_other_machine_is_asked() {
        let dmi = tempfile::tempdir().unwrap();
        std::fs::write(dmi.path().join("sys_vendor"), "QEMU\n").unwrap();
        let said = crate::backdoor::Backdoor::open(dmi.path()).unwrap_err();
        assert!(said.contains("no VMware guest") && said.contains("QEMU"), "{said}");
    }

    proptest! {
        #[test]
        fn any_value_comes_over_whole(name in "[a-zA-Z.]{1,30}", value in "\\PC{0,600}") {
            let mut model = Model { values: vec![(name.clone(), value.clone())], ..Model::default() };
            prop_assert_eq!(info_get(&mut model, &name), Ok(Some(value)));
        }
    }
}
