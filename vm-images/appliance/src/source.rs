//! Settings as they are handed over: an OVF environment, `key=value` lines, or the `user-data` of a NoCloud CD-ROM.
//!
//! NoCloud is read as far as an appliance needs it: of a `#cloud-config` the keys `hostname`, `ssh_authorized_keys` and a
//! mapping `thymus` with the appliance's own keys; what else stands there is named and not done.

/// What was found, in the order in which it stood.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Given {
    /// Keys and values, unchecked.
    pub pairs: Vec<(String, String)>,
    /// What could not be understood, in sentences.
    pub complaints: Vec<String>,
}

impl Given {
    /// Adds another source, whose values win.
    pub fn and(mut self, later: Given) -> Given {
        self.pairs.extend(later.pairs);
        self.complaints.extend(later.complaints);
        self
    }
}

/// The properties of an OVF environment. A key may stand behind `thymus.`; empty values were not given.
pub fn ovf(text: &str) -> Given {
    let mut given = Given::default();
    let document = match roxmltree::Document::parse(text) {
        Ok(document) => document,
        Err(error) => {
            given.complaints.push(format!("the OVF environment is no XML: {error}"));
            return given;
        }
    };
    let named = |node: &roxmltree::Node<'_, '_>, name: &str| {
        node.attributes().find(|each| each.name() == name).map(|each| each.value().to_owned())
    };
    for node in document.descendants().filter(|node| node.tag_name().name() == "Property") {
        let (Some(key), Some(value)) = (named(&node, "key"), named(&node, "value")) else { continue };
        if !value.trim().is_empty() {
            given.pairs.push((key.trim_start_matches("thymus.").to_owned(), value.trim().to_owned()));
        }
    }
    given
}

/// Lines `key=value`; empty lines and those that begin with `#` count for nothing.
pub fn lines(text: &str) -> Given {
    let mut given = Given::default();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        match line.split_once('=') {
            _ if line.is_empty() || line.starts_with('#') => {}
            Some((_, "")) => {}
            Some((key, value)) => given.pairs.push((key.trim().to_owned(), value.trim().to_owned())),
            None => given.complaints.push(format!("line {} of the configuration is no key=value", number + 1)),
        }
    }
    given
}

/// The `user-data` of a NoCloud CD-ROM.
pub fn cloud(text: &str) -> Given {
    if !text.starts_with("#cloud-config") {
        return lines(text);
    }
    let (mut given, mut inside) = (Given::default(), String::new());
    for (number, whole) in text.lines().enumerate() {
        let line = whole.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let unknown = || format!("line {} of user-data is not understood: {line}", number + 1);
        if !whole.starts_with([' ', '-']) {
            inside.clear();
        }
        match (inside.as_str(), line.strip_prefix("- "), line.split_once(':')) {
            ("ssh_authorized_keys", Some(key), _) => given.pairs.push(("ssh_key".to_owned(), plain(key))),
            ("thymus", None, Some((key, value))) if !plain(value).is_empty() => {
                given.pairs.push((key.trim().to_owned(), plain(value)));
            }
            ("", None, Some(("hostname", name))) => given.pairs.push(("name".to_owned(), plain(name))),
            ("", None, Some((key @ ("thymus" | "ssh_authorized_keys"), ""))) => key.clone_into(&mut inside),
            ("thymus", None, Some(_)) => {}
            _ => given.complaints.push(unknown()),
        }
    }
    given
}

/// A YAML scalar without its quotes and its remark.
fn plain(text: &str) -> String {
    let text = text.trim();
    for quote in ['"', '\''] {
        if let Some((value, _)) = text.strip_prefix(quote).and_then(|rest| rest.split_once(quote)) {
            return value.to_owned();
        }
    }
    text.split_once(" #").map_or(text, |(value, _)| value).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pairs(given: &Given) -> Vec<(&str, &str)> {
        given.pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
    }

    #[test]
    fn an_ovf_environment_is_read_whatever_its_prefixes_quotes_and_order() {
        let given = ovf(
            "<?xml version='1.0'?><Environment xmlns:q='http://schemas.dmtf.org/ovf/environment/1'><PropertySection>
            <Property q:value='a&amp;b &quot;c&quot;' q:key='thymus.name'/><Property q:key=\"dns\" q:value=\"\"/>
            <Property q:key=\"token\" q:value=\"thy1.abc=\"/></PropertySection></Environment>",
        );
        assert_eq!(pairs(&given), [("name", "a&b \"c\""), ("token", "thy1.abc=")]);
        assert!(ovf("<Environment><Property").complaints[0].contains("no XML"));
    }

    #[test]
    fn lines_keep_what_stands_behind_the_first_equals_sign() {
        let given = lines("# mine\ntoken=a=b=\n\nnonsense\nname =x\ndns=\n");
        assert_eq!(pairs(&given), [("token", "a=b="), ("name", "x")]);
        assert!(given.complaints[0].contains("line 4"), "{:?}", given.complaints);
    }

    #[test]
    fn user_data_gives_name_keys_and_settings_and_names_the_rest() {
        let given = cloud(
            "#cloud-config\nhostname: span-1\nssh_authorized_keys:\n  - ssh-ed25519 AAAA me # mine\nthymus:\n  token: 'abc='\n  tier: \"small\"\n  dns:\nruncmd:\n  - reboot\n",
        );
        assert_eq!(
            pairs(&given),
            [("name", "span-1"), ("ssh_key", "ssh-ed25519 AAAA me"), ("token", "abc="), ("tier", "small")]
        );
        assert!(given.complaints.iter().any(|each| each.contains("line 9") && each.contains("runcmd")), "{given:?}");
        assert_eq!(pairs(&cloud("token=x\n")), [("token", "x")]);
    }

    proptest! {
        #[test]
        fn any_text_is_taken_or_complained_about(text in "\\PC{0,300}") {
            let _ = (ovf(&text), lines(&text), cloud(&text), cloud(&format!("#cloud-config\n{text}")));
        }
    }
}
