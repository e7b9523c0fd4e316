//! Classic BPF: programs checked once, then run without a fault, for where no kernel runs them.
//!
//! ```text
//! A, X        32-bit registers          M[0..16]   32-bit memory
//! code        class (3 bits) | what it does      k   its constant      jt, jf   relative jumps, forwards only
//! ```
//!
//! As in Linux and libpcap a load beyond the packet rejects it, and so does a division by zero. Loads of the kernel's
//! own data and results that were computed are refused: what is left means the same everywhere.
//! After "The BSD Packet Filter" (McCanne, Jacobson 1993) and bpf(4).

use thymus_record::policy::{Instruction, PROGRAM_MAX};

const MEMORY: usize = 16;
/// From here on Linux takes offsets as negative, for its own data.
const KERNEL_DATA: u32 = 0x8000_0000;

/// Why instructions are no program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BpfError {
    /// None, or too many.
    Length(usize),
    /// An instruction that there is not, or not here.
    Code(usize),
    /// A jump out of the program.
    Jump(usize),
    /// A constant that the instruction cannot have.
    Constant(usize),
    /// The last one does not return.
    End,
}

impl std::fmt::Display for BpfError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BpfError::Length(length) => write!(f, "a filter of {length} instructions: 1 to {PROGRAM_MAX} are taken"),
            BpfError::Code(at) => write!(f, "instruction {at} of the filter is not known"),
            BpfError::Jump(at) => write!(f, "instruction {at} of the filter jumps out of it"),
            BpfError::Constant(at) => write!(f, "instruction {at} of the filter has a constant out of range"),
            BpfError::End => write!(f, "the filter has no end"),
        }
    }
}

impl std::error::Error for BpfError {}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Size {
    Word,
    Half,
    Byte,
}

impl Size {
    fn bytes(self) -> u32 {
        match self {
            Size::Word => 4,
            Size::Half => 2,
            Size::Byte => 1,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Or,
    And,
    ShiftLeft,
    ShiftRight,
    Modulo,
    Xor,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Test {
    Equal,
    Greater,
    GreaterOrEqual,
    AnyBit,
}

/// The other side of an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Operand {
    Constant,
    X,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    LoadAbsolute(Size),
    LoadIndexed(Size),
    LoadLength,
    LoadConstant,
    LoadMemory,
    LoadXConstant,
    LoadXMemory,
    LoadXLength,
    LoadXHeadLength,
    Store,
    StoreX,
    Arithmetic(Arithmetic, Operand),
    Negate,
    Jump,
    Branch(Test, Operand),
    Return,
    ToX,
    FromX,
}

fn step_of(code: u16) -> Option<Step> {
    let size = match code & 0x18 {
        0x00 => Some(Size::Word),
        0x08 => Some(Size::Half),
        0x10 => Some(Size::Byte),
        _ => None,
    };
    let operand = if code & 0x08 == 0 { Operand::Constant } else { Operand::X };
    Some(match (code & 0x07, code & 0xe0) {
        (0, 0x20) => Step::LoadAbsolute(size?),
        (0, 0x40) => Step::LoadIndexed(size?),
        (0, 0x80) if code == 0x80 => Step::LoadLength,
        (0, 0x00) if code == 0x00 => Step::LoadConstant,
        (0, 0x60) if code == 0x60 => Step::LoadMemory,
        (1, 0x00) if code == 0x01 => Step::LoadXConstant,
        (1, 0x60) if code == 0x61 => Step::LoadXMemory,
        (1, 0x80) if code == 0x81 => Step::LoadXLength,
        (1, 0xa0) if code == 0xb1 => Step::LoadXHeadLength,
        (2, 0) if code == 0x02 => Step::Store,
        (3, 0) if code == 0x03 => Step::StoreX,
        (4, _) if code == 0x84 => Step::Negate,
        (4, _) if code & 0xff07 == 4 => Step::Arithmetic(arithmetic_of(code & 0xf0)?, operand),
        (5, _) if code == 0x05 => Step::Jump,
        (5, _) if code & 0xff07 == 5 => Step::Branch(test_of(code & 0xf0)?, operand),
        (6, 0) if code == 0x06 => Step::Return,
        (7, _) if code == 0x07 => Step::ToX,
        (7, _) if code == 0x87 => Step::FromX,
        _ => return None,
    })
    .filter(|_| code <= 0xff)
}

fn arithmetic_of(bits: u16) -> Option<Arithmetic> {
    Some(match bits {
        0x00 => Arithmetic::Add,
        0x10 => Arithmetic::Subtract,
        0x20 => Arithmetic::Multiply,
        0x30 => Arithmetic::Divide,
        0x40 => Arithmetic::Or,
        0x50 => Arithmetic::And,
        0x60 => Arithmetic::ShiftLeft,
        0x70 => Arithmetic::ShiftRight,
        0x90 => Arithmetic::Modulo,
        0xa0 => Arithmetic::Xor,
        _ => return None,
    })
}

fn test_of(bits: u16) -> Option<Test> {
    Some(match bits {
        0x10 => Test::Equal,
        0x20 => Test::Greater,
        0x30 => Test::GreaterOrEqual,
        0x40 => Test::AnyBit,
        _ => return None,
    })
}

/// A program that was checked: running it ends, and cannot fail.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Program {
    steps: Vec<(Step, Instruction)>,
}

impl Program {
    /// Checks instructions; `most` is how many are taken.
    pub fn parse(instructions: &[Instruction], most: usize) -> Result<Program, BpfError> {
        if instructions.is_empty() || instructions.len() > most {
            return Err(BpfError::Length(instructions.len()));
        }
        let mut steps = Vec::with_capacity(instructions.len());
        for (at, instruction) in instructions.iter().enumerate() {
            let step = step_of(instruction.code).ok_or(BpfError::Code(at))?;
            check(at, step, instruction, instructions.len())?;
            steps.push((step, *instruction));
        }
        match steps.last() {
            Some((Step::Return, _)) => Ok(Program { steps }),
            _ => Err(BpfError::End),
        }
    }

    /// The instructions.
    pub fn instructions(&self) -> impl Iterator<Item = Instruction> {
        self.steps.iter().map(|(_, instruction)| *instruction)
    }

    /// From which length of a packet on nothing in it can fail, so that 0 is what the program says; `None` where that
    /// is not known.
    pub fn reach(&self) -> Option<u32> {
        let has = |wanted: fn(Step) -> bool| self.steps.iter().any(|(step, _)| wanted(*step));
        let divides = has(|step| matches!(step, Step::Arithmetic(Arithmetic::Divide | Arithmetic::Modulo, Operand::X)));
        let computes_x = has(|step| matches!(step, Step::ToX | Step::LoadXMemory | Step::LoadXLength));
        if divides || (computes_x && has(|step| matches!(step, Step::LoadIndexed(_)))) {
            return None;
        }
        // X is an IP head's length, or a constant.
        let constants = self.steps.iter().filter(|(step, _)| *step == Step::LoadXConstant);
        let x_max = constants.map(|(_, instruction)| instruction.k).max().unwrap_or(0).max(60);
        let mut reach = 0;
        for (step, Instruction { k, .. }) in &self.steps {
            let end = match step {
                Step::LoadAbsolute(size) => k.checked_add(size.bytes()),
                Step::LoadIndexed(size) => k.checked_add(x_max)?.checked_add(size.bytes()),
                Step::LoadXHeadLength => k.checked_add(1),
                _ => Some(0),
            };
            reach = reach.max(end?);
        }
        Some(reach)
    }

    /// How many bytes of the packet are taken; 0: it is rejected. `wire_len` is its length before it was cut.
    pub fn run(&self, packet: &[u8], wire_len: u32) -> u32 {
        self.result(packet, wire_len).unwrap_or(0)
    }

    fn result(&self, packet: &[u8], wire_len: u32) -> Option<u32> {
        let (mut a, mut x, mut memory) = (0u32, 0u32, [0u32; MEMORY]);
        let mut at = 0usize;
        loop {
            let (step, Instruction { jt, jf, k, .. }) = *self.steps.get(at)?;
            let cell = k as usize % MEMORY;
            at += 1;
            match step {
                Step::LoadAbsolute(size) => a = load(packet, k, size)?,
                Step::LoadIndexed(size) => a = load(packet, x.checked_add(k)?, size)?,
                Step::LoadLength => a = wire_len,
                Step::LoadConstant => a = k,
                Step::LoadMemory => a = *memory.get(cell)?,
                Step::LoadXConstant => x = k,
                Step::LoadXMemory => x = *memory.get(cell)?,
                Step::LoadXLength => x = wire_len,
                Step::LoadXHeadLength => x = (load(packet, k, Size::Byte)? & 15) << 2,
                Step::Store => *memory.get_mut(cell)? = a,
                Step::StoreX => *memory.get_mut(cell)? = x,
                Step::Arithmetic(what, operand) => a = calculate(what, a, value(operand, k, x))?,
                Step::Negate => a = a.wrapping_neg(),
                Step::Jump => at += k as usize,
                Step::Branch(test, operand) => {
                    let holds = holds(test, a, value(operand, k, x));
                    at += usize::from(if holds { jt } else { jf });
                }
                Step::Return => return Some(k),
                Step::ToX => x = a,
                Step::FromX => a = x,
            }
        }
    }
}

fn check(at: usize, step: Step, instruction: &Instruction, length: usize) -> Result<(), BpfError> {
    let k = instruction.k;
    let lands = |skipped: usize| at.checked_add(skipped).is_some_and(|before| before + 1 < length);
    let good = match step {
        Step::Jump => return if lands(k as usize) { Ok(()) } else { Err(BpfError::Jump(at)) },
        Step::Branch(..) => {
            let both = lands(usize::from(instruction.jt)) && lands(usize::from(instruction.jf));
            return if both { Ok(()) } else { Err(BpfError::Jump(at)) };
        }
        Step::LoadMemory | Step::LoadXMemory | Step::Store | Step::StoreX => (k as usize) < MEMORY,
        Step::Arithmetic(Arithmetic::Divide | Arithmetic::Modulo, Operand::Constant) => k != 0,
        Step::Arithmetic(Arithmetic::ShiftLeft | Arithmetic::ShiftRight, Operand::Constant) => k < 32,
        Step::LoadAbsolute(_) | Step::LoadIndexed(_) | Step::LoadXHeadLength => k < KERNEL_DATA,
        _ => true,
    };
    if good { Ok(()) } else { Err(BpfError::Constant(at)) }
}

fn value(operand: Operand, k: u32, x: u32) -> u32 {
    match operand {
        Operand::Constant => k,
        Operand::X => x,
    }
}

fn load(packet: &[u8], at: u32, size: Size) -> Option<u32> {
    let rest = packet.get(at as usize..)?;
    Some(match size {
        Size::Word => u32::from_be_bytes(*rest.first_chunk()?),
        Size::Half => u32::from(u16::from_be_bytes(*rest.first_chunk()?)),
        Size::Byte => u32::from(*rest.first()?),
    })
}

fn calculate(what: Arithmetic, a: u32, b: u32) -> Option<u32> {
    Some(match what {
        Arithmetic::Add => a.wrapping_add(b),
        Arithmetic::Subtract => a.wrapping_sub(b),
        Arithmetic::Multiply => a.wrapping_mul(b),
        Arithmetic::Divide => a.checked_div(b)?,
        Arithmetic::Or => a | b,
        Arithmetic::And => a & b,
        Arithmetic::ShiftLeft => a.checked_shl(b).unwrap_or(0),
        Arithmetic::ShiftRight => a.checked_shr(b).unwrap_or(0),
        Arithmetic::Modulo => a.checked_rem(b)?,
        Arithmetic::Xor => a ^ b,
    })
}

fn holds(test: Test, a: u32, b: u32) -> bool {
    match test {
        Test::Equal => a == b,
        Test::Greater => a > b,
        Test::GreaterOrEqual => a >= b,
        Test::AnyBit => a & b != 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn step(code: u16, jt: u8, jf: u8, k: u32) -> Instruction {
        Instruction { code, jt, jf, k }
    }

    fn parse(instructions: &[Instruction]) -> Result<Program, BpfError> {
        Program::parse(instructions, PROGRAM_MAX)
    }

    #[test]
    fn the_filter_arp_takes_arp_alone() {
        // tcpdump -dd arp
        let program = [step(0x28, 0, 0, 12), step(0x15, 0, 1, 0x806), step(0x6, 0, 0, 262_144), step(0x6, 0, 0, 0)];
        let program = parse(&program).unwrap();
        let mut packet = [0u8; 60];
        assert_eq!(program.run(&packet, 60), 0);
        packet[12..14].copy_from_slice(&[8, 6]);
        assert_eq!(program.run(&packet, 60), 262_144);
        assert_eq!(program.run(&packet[..13], 60), 0, "a load beyond the packet rejects it");
    }

    #[test]
    fn hostile_programs_are_refused() {
        let ret = step(0x6, 0, 0, 1);
        assert_eq!(parse(&[]), Err(BpfError::Length(0)));
        assert_eq!(parse(&vec![ret; PROGRAM_MAX + 1]), Err(BpfError::Length(PROGRAM_MAX + 1)));
        assert_eq!(parse(&[step(0x5, 0, 0, u32::MAX), ret]), Err(BpfError::Jump(0)), "backwards");
        assert_eq!(parse(&[step(0x5, 0, 0, 1), ret]), Err(BpfError::Jump(0)));
        assert_eq!(parse(&[step(0x15, 0, 9, 1), ret]), Err(BpfError::Jump(0)));
        assert_eq!(parse(&[step(0x02, 0, 0, 16), ret]), Err(BpfError::Constant(0)), "memory");
        assert_eq!(parse(&[step(0x34, 0, 0, 0), ret]), Err(BpfError::Constant(0)), "division by zero");
        assert_eq!(parse(&[step(0x30, 0, 0, 0xffff_f030), ret]), Err(BpfError::Constant(0)), "the kernel's data");
        assert_eq!(parse(&[step(0x16, 0, 0, 0)]), Err(BpfError::Code(0)), "a computed result");
        assert_eq!(parse(&[step(0xffff, 0, 0, 0), ret]), Err(BpfError::Code(0)));
        assert_eq!(parse(&[step(0x00, 0, 0, 0)]), Err(BpfError::End));
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_ends(
            codes in prop::collection::vec((0u16..0x100, 0u8..6, 0u8..6, prop_oneof![0u32..40, any::<u32>()]), 1..40),
            packet in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            let mut program: Vec<Instruction> = codes.iter().map(|(code, jt, jf, k)| step(*code, *jt, *jf, *k)).collect();
            program.push(step(0x6, 0, 0, 7));
            if let Ok(program) = parse(&program) {
                program.run(&packet, 80);
            }
        }

        #[test]
        fn within_its_reach_a_program_returns_what_it_says(
            codes in prop::collection::vec((0u16..0x100, 0u8..6, 0u8..6, 0u32..40), 1..40), fill in any::<u8>(),
        ) {
            let mut program: Vec<Instruction> = codes.iter().map(|(code, jt, jf, k)| step(*code, *jt, *jf, *k)).collect();
            program.iter_mut().filter(|each| each.code == 6).for_each(|each| each.k = 7);
            program.push(step(0x6, 0, 0, 7));
            if let Some((program, reach)) = parse(&program).ok().and_then(|program| Some((program.clone(), program.reach()?))) {
                prop_assert_eq!(program.run(&vec![fill; reach as usize], reach), 7);
            }
        }
    }
}
