//! What an index can look up before frames are read.

use super::Expression;
use super::test::Test;
use thymus_record::Address;

/// Widest port range that is worth a look-up a port.
const RANGE_MAX: u16 = 16;

/// What every frame that matches must have. It may still not match: the filter itself decides.
///
/// The addresses and ports may stand at any layer and in ARP, so an index that holds only innermost packets must not
/// leave out frames with a tunnel by it.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Hint {
    /// One of these is among its addresses; `None` if any address will do.
    pub hosts: Option<Vec<Address>>,
    /// One of these is among its ports; `None` if any port, or none, will do.
    pub ports: Option<Vec<u16>>,
}

pub(super) fn of(tests: &[Test], expression: &Expression) -> Hint {
    let hints = |parts: &[Expression]| parts.iter().map(|part| of(tests, part)).collect::<Vec<_>>();
    match expression {
        Expression::Test(number) => tests.get(*number).map(of_test).unwrap_or_default(),
        Expression::Not(_) => Hint::default(),
        Expression::All(parts) => {
            let (hosts, ports): (Vec<_>, Vec<_>) =
                hints(parts).into_iter().map(|hint| (hint.hosts, hint.ports)).unzip();
            Hint { hosts: fewest(hosts), ports: fewest(ports) }
        }
        Expression::Any(parts) => {
            let (hosts, ports): (Vec<_>, Vec<_>) =
                hints(parts).into_iter().map(|hint| (hint.hosts, hint.ports)).unzip();
            Hint { hosts: all(hosts), ports: all(ports) }
        }
    }
}

fn of_test(test: &Test) -> Hint {
    match test {
        Test::Host { net, .. } => Hint { hosts: net.single().map(|host| vec![host]), ports: None },
        Test::Port { low, high, .. } if high - low < RANGE_MAX => {
            Hint { hosts: None, ports: Some((*low..=*high).collect()) }
        }
        _ => Hint::default(),
    }
}

/// Each part must hold: the part that leaves fewest suffices.
fn fewest<T>(parts: Vec<Option<Vec<T>>>) -> Option<Vec<T>> {
    parts.into_iter().flatten().min_by_key(Vec::len)
}

/// One part must hold: all that the parts allow, and anything if one part allows anything.
fn all<T: Ord>(parts: Vec<Option<Vec<T>>>) -> Option<Vec<T>> {
    let mut all = parts.into_iter().collect::<Option<Vec<_>>>()?.into_iter().flatten().collect::<Vec<_>>();
    all.sort();
    all.dedup();
    Some(all)
}
