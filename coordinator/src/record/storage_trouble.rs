//! StorageTrouble that lasts is said when it begins and when it is over, however often it is met between.

/// What was said of one kind of trouble, while it lasts.
#[derive(Default)]
pub(super) struct StorageTrouble(Option<String>);

impl StorageTrouble {
    /// It is met: whether that is to be said, in these words.
    pub(super) fn is_news(&mut self, text: &str) -> bool {
        let is_news = self.0.as_deref() != Some(text);
        self.0 = Some(text.to_owned());
        is_news
    }

    /// It isn't met any more: whether that is to be said.
    pub(super) fn is_over(&mut self) -> bool {
        self.0.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_said_once_until_it_is_over() {
        let mut trouble = StorageTrouble::default();
        assert!(!trouble.is_over());
        assert!(trouble.is_news("full") && !trouble.is_news("full") && trouble.is_news("read-only"));
        assert!(trouble.is_over() && !trouble.is_over());
        assert!(trouble.is_news("read-only"));
    }
}
