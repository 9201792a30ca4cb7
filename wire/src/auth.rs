//! The token on the control plane: a client's calls carry it. Who is admitted with it is the server's to say
//! ([`Token::admits`]).

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

use crate::token::{METADATA_KEY, Token};

/// Puts the token into a client's calls.
#[derive(Clone, Debug)]
pub struct Bearer {
    value: MetadataValue<Ascii>,
}

impl Bearer {
    /// For this run's token.
    #[must_use]
    pub fn new(token: &Token) -> Self {
        let mut value: MetadataValue<Ascii> =
            token.bearer().parse().expect("hexadecimal digits are a metadata value");
        // Kept out of logs, and out of the table that HTTP/2 compresses headers with.
        value.set_sensitive(true);
        Self { value }
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert(METADATA_KEY, self.value.clone());
        Ok(request)
    }
}
