//! The text of an answer: the words of what was asked, over and over, one a token.

/// Words echoed, and characters of each: what a client sends is not repeated without bounds.
const WORDS_MAX: usize = 1024;
const WORD_CHARS_MAX: usize = 32;
/// What there is to say about nothing.
const DEFAULT_WORDS: [&str; 4] = [" nothing", " was", " asked", " here"];

/// Why an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finish {
    /// It is complete, or came to a stop string.
    Stop,
    /// It has as many tokens as the client allows.
    Length,
}

/// A whole answer, known before its first token.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    /// Each with a space before it.
    words: Vec<Box<str>>,
    tokens: usize,
    /// What a stop string left of the last token.
    last: Option<Box<str>>,
    finish: Finish,
}

impl Answer {
    /// Echoes `asked` in `tokens` words, and stops before the first of `stops`.
    pub(super) fn new(asked: &str, tokens: usize, finish: Finish, stops: &[String]) -> Self {
        let mut words: Vec<Box<str>> = asked.split_whitespace().take(WORDS_MAX).map(word).collect();
        if words.is_empty() {
            words = DEFAULT_WORDS.map(Box::from).into();
        }
        let mut answer = Self { words, tokens, last: None, finish };
        answer.stop(stops);
        answer
    }

    /// The text of one token.
    pub(super) fn piece(&self, token: usize) -> &str {
        if let Some(last) = self.last.as_deref().filter(|_| token + 1 == self.tokens) {
            return last;
        }
        let word = self.words.get(token % self.words.len()).map_or("", |word| word);
        if token == 0 { word.trim_start() } else { word }
    }

    pub(super) fn tokens(&self) -> usize {
        self.tokens
    }

    pub(super) fn finish(&self) -> Finish {
        self.finish
    }

    pub(super) fn pieces(&self) -> impl Iterator<Item = &str> {
        (0..self.tokens).map(|token| self.piece(token))
    }

    pub(super) fn text(&self) -> String {
        self.pieces().collect()
    }

    fn stop(&mut self, stops: &[String]) {
        let text = if stops.is_empty() { return } else { self.text() };
        let Some(end) = stops.iter().filter_map(|stop| text.find(stop.as_str())).min() else {
            return;
        };
        let (mut tokens, mut begin) = (0, 0);
        for piece in self.pieces() {
            tokens += 1;
            if begin + piece.len() >= end {
                break;
            }
            begin += piece.len();
        }
        self.last = Some(text.get(begin..end).unwrap_or_default().into());
        (self.tokens, self.finish) = (tokens, Finish::Stop);
    }
}

fn word(word: &str) -> Box<str> {
    std::iter::once(' ').chain(word.chars().take(WORD_CHARS_MAX)).collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(asked: &str, tokens: usize, stops: &[&str]) -> Answer {
        let stops: Vec<_> = stops.iter().map(|stop| (*stop).to_owned()).collect();
        Answer::new(asked, tokens, Finish::Length, &stops)
    }

    #[test]
    fn the_words_asked_come_back_one_a_token() {
        let answer = answer(" red  green\nblue ", 5, &[]);
        assert_eq!(answer.text(), "red green blue red green");
        assert_eq!(answer.pieces().collect::<Vec<_>>(), ["red", " green", " blue", " red", " green"]);
        assert_eq!(answer.finish(), Finish::Length);
    }

    #[test]
    fn an_empty_question_and_an_endless_word_have_answers_too() {
        assert_eq!(answer("", 3, &[]).text(), "nothing was asked");
        assert_eq!(answer(&"ü".repeat(1000), 1, &[]).text(), "ü".repeat(32));
    }

    #[test]
    fn an_answer_ends_before_the_first_stop_string() {
        for (stops, text, tokens) in [
            (&["blue"][..], "red green ", 3),
            (&["ee", "blue"], "red gr", 2),
            (&["d g"], "re", 1),
            (&["red"], "", 1),
            (&["violet"], "red green blue red green", 5),
        ] {
            let answer = answer("red green blue", 5, stops);
            assert_eq!((answer.text().as_str(), answer.tokens()), (text, tokens), "{stops:?}");
            let finish = if tokens == 5 { Finish::Length } else { Finish::Stop };
            assert_eq!(answer.finish(), finish, "{stops:?}");
        }
    }
}
