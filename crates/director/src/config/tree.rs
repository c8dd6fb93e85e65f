//! Words and braces as statements: a keyword, its arguments, perhaps a block.

use super::lexer::{Kind, Place, Token};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Word {
    pub text: String,
    pub place: Place,
}

/// One line, or a keyword with its block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Statement {
    /// Never empty: the keyword, then its arguments.
    pub words: Vec<Word>,
    pub block: Option<Vec<Statement>>,
}

/// Braces that don't pair up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stray {
    /// `}` without `{`.
    Close(Place),
    /// `{` without a keyword before it; what is inside was skipped.
    Open(Place),
    /// `{` that is never closed.
    Unclosed(Place),
    /// Blocks in blocks in blocks: what is inside was skipped.
    TooDeep(Place),
}

const MAX_DEPTH: usize = 32;

pub(crate) fn parse(tokens: Vec<Token>) -> (Vec<Statement>, Vec<Stray>) {
    let mut strays = Vec::new();
    // One list of statements per open block, with where that block was opened.
    let mut open: Vec<(Vec<Statement>, Option<Place>)> = vec![(Vec::new(), None)];
    let mut words: Vec<Word> = Vec::new();

    fn close(open: &mut Vec<(Vec<Statement>, Option<Place>)>) {
        if let Some((statements, _)) = open.pop()
            && let Some((parent, _)) = open.last_mut()
            && let Some(owner) = parent.last_mut()
        {
            owner.block = Some(statements);
        }
    }
    macro_rules! end_statement {
        () => {
            if !words.is_empty()
                && let Some((statements, _)) = open.last_mut()
            {
                statements.push(Statement { words: std::mem::take(&mut words), block: None });
            }
        };
    }

    // Blocks opened inside one that is nested too deep.
    let mut skipped = 0usize;
    for Token { kind, place } in tokens {
        if skipped > 0 {
            match kind {
                Kind::Open => skipped += 1,
                Kind::Close => skipped -= 1,
                Kind::Word(_) | Kind::EndOfLine => {}
            }
            continue;
        }
        match kind {
            Kind::Word(text) => words.push(Word { text, place }),
            Kind::EndOfLine => end_statement!(),
            Kind::Open => {
                end_statement!();
                if open.len() > MAX_DEPTH {
                    strays.push(Stray::TooDeep(place));
                    skipped = 1;
                    continue;
                }
                let Some((statements, _)) = open.last_mut() else { continue };
                // The brace may stand on the line after its keyword.
                let has_owner = statements.last().is_some_and(|s| s.block.is_none());
                if !has_owner {
                    strays.push(Stray::Open(place.clone()));
                    // A place to put what is inside, forgotten below.
                    statements.push(Statement { words: Vec::new(), block: None });
                }
                open.push((Vec::new(), Some(place)));
            }
            Kind::Close => {
                end_statement!();
                if open.len() == 1 {
                    strays.push(Stray::Close(place));
                } else {
                    close(&mut open);
                }
            }
        }
    }
    end_statement!();
    while open.len() > 1 {
        if let Some((_, Some(place))) = open.last() {
            strays.push(Stray::Unclosed(place.clone()));
        }
        close(&mut open);
    }
    let mut statements = open.pop().map(|(s, _)| s).unwrap_or_default();
    drop_nameless(&mut statements);
    (statements, strays)
}

fn drop_nameless(statements: &mut Vec<Statement>) {
    statements.retain(|s| !s.words.is_empty());
    for statement in statements {
        if let Some(block) = &mut statement.block {
            drop_nameless(block);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::lexer::{lex, tests::Memory};
    use super::*;

    fn show(text: &str) -> (String, usize) {
        fn write(statements: &[Statement], out: &mut String) {
            for s in statements {
                let words: Vec<_> = s.words.iter().map(|w| w.text.as_str()).collect();
                out.push_str(&words.join(" "));
                if let Some(block) = &s.block {
                    out.push('(');
                    write(block, out);
                    out.push(')');
                }
                out.push(';');
            }
        }
        let (statements, strays) = parse(lex("t", text, &Memory::default()).tokens);
        let mut out = String::new();
        write(&statements, &mut out);
        (out, strays.len())
    }

    #[test]
    fn blocks_on_one_line_or_many() {
        assert_eq!(show("a b {\n c d\n e {\n f\n }\n}\ng").0, "a b(c d;e(f;););g;");
        assert_eq!(show("a { b c }\nd\n{\n e\n}").0, "a(b c;);d(e;);");
    }

    #[test]
    fn braces_that_do_not_pair_are_told_and_survived() {
        assert_eq!(show("a\n}\nb"), ("a;b;".to_owned(), 1));
        assert_eq!(show("a {\n b {\n c\n"), ("a(b(c;););".to_owned(), 2));
        assert_eq!(show("{\n x\n}\na"), ("a;".to_owned(), 1));
        let deep = "a {\n".repeat(100_000);
        assert_eq!(show(&deep).1, 1 + MAX_DEPTH);
    }
}
