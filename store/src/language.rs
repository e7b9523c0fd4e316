//! The query language: `field:value` with AND, OR, NOT and parentheses; two terms side by side mean AND.
//!
//! ```text
//! id.orig_h:10.0.0.0/8 AND (resp_bytes:>1000000 OR query:*.example) NOT proto:udp "two words" port:[1 TO 1023]
//! ```
//!
//! The text becomes a tree of bounded depth; names and values are bound to a table's columns later.

/// Longest query, in bytes.
pub const TEXT_MAX: usize = 4096;
/// Deepest nesting of parentheses and NOT.
pub const DEPTH_MAX: usize = 32;

/// A query as a tree.
#[derive(Clone, PartialEq, Debug)]
pub enum Expr {
    /// All hold.
    And(Vec<Expr>),
    /// One holds.
    Or(Vec<Expr>),
    /// It does not hold.
    Not(Box<Expr>),
    /// A condition.
    Term(Term),
}

/// `field:test`, or a bare word.
#[derive(Clone, PartialEq, Debug)]
pub struct Term {
    /// The field; `None` for a bare word.
    pub field: Option<String>,
    /// Where the term begins, in characters from 0.
    pub at: usize,
    /// What is asked.
    pub test: Test,
}

/// What a term asks of its field.
#[derive(Clone, PartialEq, Debug)]
pub enum Test {
    /// Equal, with `*` as a wildcard unless quoted.
    Is {
        /// The value.
        text: String,
        /// Was in quotes: no wildcards.
        quoted: bool,
    },
    /// Inclusive bounds, each open if `None`; the flags exclude the bound itself.
    Between {
        /// Lower bound and whether it is excluded.
        low: Option<(String, bool)>,
        /// Upper bound and whether it is excluded.
        high: Option<(String, bool)>,
    },
}

/// The text is no query.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("query, character {}: {what}", at + 1)]
pub struct SyntaxError {
    /// Position in characters from 0.
    pub at: usize,
    /// What is wrong.
    pub what: String,
}

/// Parses a query; `None` if it asks nothing.
pub fn parse(text: &str) -> Result<Option<Expr>, SyntaxError> {
    if text.len() > TEXT_MAX {
        return Err(SyntaxError { at: TEXT_MAX, what: format!("a query has {TEXT_MAX} bytes at most") });
    }
    let tokens = tokens(text)?;
    if tokens.is_empty() {
        return Ok(None);
    }
    let mut parser = Parser { tokens: &tokens, end: text.chars().count() };
    let expr = parser.or(0)?;
    match parser.tokens.first() {
        None => Ok(Some(expr)),
        Some(token) => Err(SyntaxError { at: token.at, what: "this ')' closes nothing".into() }),
    }
}

#[derive(Clone, PartialEq, Debug)]
enum Kind {
    Open,
    Close,
    And,
    Or,
    Not,
    Term(Term),
}

struct Token {
    at: usize,
    kind: Kind,
}

fn tokens(text: &str) -> Result<Vec<Token>, SyntaxError> {
    let mut scanner = Scanner { chars: text.chars().collect(), at: 0 };
    let mut found = Vec::new();
    while let Some(char) = scanner.peek() {
        let at = scanner.at;
        let kind = match char {
            c if c.is_whitespace() => {
                scanner.at += 1;
                continue;
            }
            '(' => Kind::Open,
            ')' => Kind::Close,
            _ => {
                found.push(Token { at, kind: scanner.word()? });
                continue;
            }
        };
        scanner.at += 1;
        found.push(Token { at, kind });
    }
    Ok(found)
}

struct Scanner {
    chars: Vec<char>,
    at: usize,
}

impl Scanner {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    /// A keyword, a bare word or `field:test`.
    fn word(&mut self) -> Result<Kind, SyntaxError> {
        let at = self.at;
        if self.peek() == Some('"') {
            let text = self.quoted()?;
            return Ok(Kind::Term(Term { field: None, at, test: Test::Is { text, quoted: true } }));
        }
        let name = self.take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
        let is_field = self.peek() == Some(':') && name.starts_with(|c: char| c.is_ascii_alphabetic());
        if is_field && !self.is_address(at) {
            self.at += 1;
            let test = self.test(at, &name)?;
            return Ok(Kind::Term(Term { field: Some(name), at, test }));
        }
        let text = name + &self.plain();
        Ok(match text.as_str() {
            "AND" | "and" => Kind::And,
            "OR" | "or" => Kind::Or,
            "NOT" | "not" => Kind::Not,
            "" => return Err(SyntaxError { at, what: "a word or field:value belongs here".into() }),
            _ => Kind::Term(Term { field: None, at, test: Test::Is { text, quoted: false } }),
        })
    }

    /// True if the word from `at` is an IPv6 or MAC address, whose colon is no field's.
    fn is_address(&self, at: usize) -> bool {
        let rest = self.chars.get(at..).unwrap_or_default();
        let word: String = rest.iter().take_while(|c| !c.is_whitespace() && !matches!(c, '(' | ')' | '/')).collect();
        word.parse::<std::net::Ipv6Addr>().is_ok()
            || (word.len() == 17 && word.split(':').filter(|part| part.len() == 2).count() == 6)
    }

    fn test(&mut self, at: usize, field: &str) -> Result<Test, SyntaxError> {
        match self.peek() {
            Some('"') => Ok(Test::Is { text: self.quoted()?, quoted: true }),
            Some('[') => self.range(),
            Some(operator @ ('<' | '>')) => {
                self.at += 1;
                let excluded = self.peek() != Some('=');
                if !excluded {
                    self.at += 1;
                }
                let bound = (self.value(at, field)?, excluded);
                Ok(match operator {
                    '<' => Test::Between { low: None, high: Some(bound) },
                    _ => Test::Between { low: Some(bound), high: None },
                })
            }
            _ => Ok(Test::Is { text: self.value(at, field)?, quoted: false }),
        }
    }

    fn value(&mut self, at: usize, field: &str) -> Result<String, SyntaxError> {
        let text = if self.peek() == Some('"') { self.quoted()? } else { self.plain() };
        if text.is_empty() {
            return Err(SyntaxError { at, what: format!("{field}: has no value; write \"\" for an empty one") });
        }
        Ok(text)
    }

    /// `[low TO high]`, `*` for an open end.
    fn range(&mut self) -> Result<Test, SyntaxError> {
        let at = self.at;
        self.at += 1;
        let inside = self.take_while(|c| c != ']');
        if self.peek() != Some(']') {
            return Err(SyntaxError { at, what: "this '[' is not closed by ']'".into() });
        }
        self.at += 1;
        let wrong = || SyntaxError { at, what: "a range is written [low TO high]".into() };
        let (low, high) = inside.split_once(" TO ").ok_or_else(wrong)?;
        let bound = |text: &str| match text.trim() {
            "*" => Ok(None),
            "" => Err(wrong()),
            text => Ok(Some((text.to_owned(), false))),
        };
        Ok(Test::Between { low: bound(low)?, high: bound(high)? })
    }

    fn quoted(&mut self) -> Result<String, SyntaxError> {
        let at = self.at;
        self.at += 1;
        let mut text = String::new();
        while let Some(char) = self.peek() {
            self.at += 1;
            match char {
                '"' => return Ok(text),
                '\\' => {
                    text.extend(self.peek());
                    self.at += 1;
                }
                _ => text.push(char),
            }
        }
        Err(SyntaxError { at, what: "this quote is not closed".into() })
    }

    fn plain(&mut self) -> String {
        self.take_while(|c| !c.is_whitespace() && !matches!(c, '(' | ')' | '"'))
    }

    fn take_while(&mut self, keep: impl Fn(char) -> bool) -> String {
        let rest = self.chars.get(self.at..).unwrap_or_default();
        let text: String = rest.iter().copied().take_while(|&c| keep(c)).collect();
        self.at += text.chars().count();
        text
    }
}

struct Parser<'a> {
    tokens: &'a [Token],
    end: usize,
}

impl Parser<'_> {
    fn or(&mut self, depth: usize) -> Result<Expr, SyntaxError> {
        let mut parts = vec![self.and(depth)?];
        while self.accept(&Kind::Or) {
            parts.push(self.and(depth)?);
        }
        Ok(one_or(parts, Expr::Or))
    }

    fn and(&mut self, depth: usize) -> Result<Expr, SyntaxError> {
        let mut parts = vec![self.not(depth)?];
        while let Some(token) = self.tokens.first() {
            match token.kind {
                Kind::Or | Kind::Close => break,
                Kind::And => {
                    self.accept(&Kind::And);
                }
                _ => {}
            }
            parts.push(self.not(depth)?);
        }
        Ok(one_or(parts, Expr::And))
    }

    fn not(&mut self, depth: usize) -> Result<Expr, SyntaxError> {
        let Some((token, rest)) = self.tokens.split_first() else {
            return Err(SyntaxError { at: self.end, what: "a condition is missing at the end".into() });
        };
        if depth > DEPTH_MAX {
            return Err(SyntaxError { at: token.at, what: format!("nested deeper than {DEPTH_MAX}") });
        }
        self.tokens = rest;
        match &token.kind {
            Kind::Not => Ok(Expr::Not(Box::new(self.not(depth + 1)?))),
            Kind::Term(term) => Ok(Expr::Term(term.clone())),
            Kind::Open => {
                let inner = self.or(depth + 1)?;
                if self.accept(&Kind::Close) {
                    return Ok(inner);
                }
                Err(SyntaxError { at: token.at, what: "this '(' is not closed".into() })
            }
            Kind::Close | Kind::And | Kind::Or => {
                Err(SyntaxError { at: token.at, what: "a condition belongs here".into() })
            }
        }
    }

    fn accept(&mut self, kind: &Kind) -> bool {
        match self.tokens.split_first() {
            Some((token, rest)) if token.kind == *kind => {
                self.tokens = rest;
                true
            }
            _ => false,
        }
    }
}

fn one_or(mut parts: Vec<Expr>, join: impl Fn(Vec<Expr>) -> Expr) -> Expr {
    match parts.pop() {
        Some(only) if parts.is_empty() => only,
        Some(last) => {
            parts.push(last);
            join(parts)
        }
        None => join(parts),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn is(field: Option<&str>, at: usize, text: &str) -> Expr {
        let test = Test::Is { text: text.into(), quoted: false };
        Expr::Term(Term { field: field.map(Into::into), at, test })
    }

    #[test]
    fn or_binds_looser_than_and_and_neighbours_mean_and() {
        let parsed = parse("a:1 b:2 OR NOT c:3").unwrap().unwrap();
        let left = Expr::And(vec![is(Some("a"), 0, "1"), is(Some("b"), 4, "2")]);
        assert_eq!(parsed, Expr::Or(vec![left, Expr::Not(Box::new(is(Some("c"), 15, "3")))]));
    }

    #[test]
    fn an_address_is_a_value_and_no_field() {
        for text in ["fe80::1", "2001:db8::1", "ab:cd:ef:01:02:03", "fe80::/10"] {
            assert_eq!(parse(text).unwrap().unwrap(), is(None, 0, text));
        }
        assert_eq!(parse("id.orig_h:fe80::1").unwrap().unwrap(), is(Some("id.orig_h"), 0, "fe80::1"));
    }

    #[test]
    fn errors_name_the_place() {
        for (text, at) in [("a:1 )", 4), ("(a:1", 0), ("a:1 AND", 7), ("a:", 0), ("x \"y", 2), ("p:[1 2]", 2)] {
            assert_eq!(parse(text).unwrap_err().at, at, "{text}");
        }
        assert!(parse(&"(".repeat(1000)).is_err() && parse(&"NOT ".repeat(1000)).is_err());
    }

    #[test]
    fn bounds_and_ranges_are_read() {
        let Expr::Term(term) = parse("n:>=5").unwrap().unwrap() else { panic!() };
        assert_eq!(term.test, Test::Between { low: Some(("5".into(), false)), high: None });
        let Expr::Term(term) = parse("n:[* TO 7]").unwrap().unwrap() else { panic!() };
        assert_eq!(term.test, Test::Between { low: None, high: Some(("7".into(), false)) });
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused_without_panic(text in ".{0,80}") {
            let _ = parse(&text);
        }

        #[test]
        fn any_mix_of_words_is_parsed_or_refused(words in prop::collection::vec("AND|OR|NOT|\\(|\\)|a:1|b:\"x|c|:|p:>3|q:\\[", 0..30)) {
            let _ = parse(&words.join(" "));
        }
    }
}
