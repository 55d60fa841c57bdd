//! The words of a text that comes in pieces: letters, digits, `_` and `$` in a row, without regard to case.
//!
//! No grammar: words in literals and comments are words too. Whoever asks must bear that.

/// Longest word that is told from others; of longer ones this much is.
const LONGEST: usize = 32;

/// A word, in small letters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Word {
    letters: [u8; LONGEST],
    length: u8,
}

impl Word {
    /// Its letters.
    pub fn as_bytes(&self) -> &[u8] {
        &self.letters[..usize::from(self.length)]
    }

    fn push(&mut self, letter: u8) {
        if let Some(place) = self.letters.get_mut(usize::from(self.length)) {
            *place = letter.to_ascii_lowercase();
            self.length += 1;
        }
    }
}

/// Finds words.
#[derive(Clone, Debug, Default)]
pub struct Words {
    under_way: Word,
}

impl Words {
    /// Another text begins.
    pub fn begin(&mut self) {
        self.under_way = Word::default();
    }

    /// Takes the next piece; `found` hears of each word that has ended. The end of the text is a piece of its own: the
    /// zero that ends every text of the protocol.
    pub fn over(&mut self, piece: &[u8], mut found: impl FnMut(&Word)) {
        for &byte in piece {
            if is_of_word(byte) {
                self.under_way.push(byte);
            } else if self.under_way.length > 0 {
                found(&std::mem::take(&mut self.under_way));
            }
        }
    }
}

/// Letters of other alphabets belong to words (PostgreSQL documentation, "Identifiers and Key Words").
fn is_of_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | 0x80..)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(pieces: &[&[u8]]) -> Vec<String> {
        let (mut words, mut found) = (Words::default(), Vec::new());
        for piece in pieces {
            words.over(piece, |word| found.push(String::from_utf8_lossy(word.as_bytes()).into_owned()));
        }
        found
    }

    #[test]
    fn words_are_found_whatever_stands_between() {
        let text = b"CREATE/**/TEMP\tTable \"pg_Temp\".x1;set_config('a$b')\0";
        let wanted = ["create", "temp", "table", "pg_temp", "x1", "set_config", "a$b"];
        assert_eq!(words(&[text]), wanted);
        assert_eq!(words(&["größe\0".as_bytes()]), ["größe"]);
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(text in "[a-zA-Z_ ;'ö]{0,80}", at in 0_usize..80) {
            let text = [text.as_bytes(), b"\0"].concat();
            let (one, other) = text.split_at(at.min(text.len()));
            prop_assert_eq!(words(&[one, other]), words(&[&text]));
        }
    }
}
