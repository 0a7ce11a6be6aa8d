//! An answer, and the shapes of errors.

use http::HeaderMap;
use serde_json::Value;

/// What came back.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

impl Reply {
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }

    #[track_caller]
    pub fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text);
        self.json()
    }

    /// The text of an error of the shape `{"detail"}`.
    #[track_caller]
    pub fn detail(self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", self.text);
        let json = self.json();
        assert_eq!(names(&json), ["detail"]);
        json["detail"].as_str().unwrap().to_owned()
    }

    /// The message and the details of an error of the shape `{"error"}`, which must have this code.
    #[track_caller]
    pub fn coded(self, status: u16, code: &str) -> (String, Value) {
        assert_eq!(self.status, status, "{}", self.text);
        let json = self.json();
        assert_eq!(names(&json), ["error"]);
        let error = &json["error"];
        assert_eq!(names(error), ["code", "details", "message"]);
        assert_eq!(error["code"], code, "{error}");
        assert!(error["details"].is_object(), "{error}");
        let message = error["message"].as_str().unwrap().to_owned();
        (message, error["details"].clone())
    }
}

/// The names of an object's fields, in order.
pub fn names(object: &Value) -> Vec<&str> {
    let object = object.as_object().unwrap_or_else(|| panic!("{object}"));
    object.keys().map(String::as_str).collect()
}

/// Sends a request and reads its answer whole.
pub async fn reply(request: reqwest::RequestBuilder) -> Reply {
    let answer = request.send().await.unwrap();
    Reply {
        status: answer.status().as_u16(),
        headers: answer.headers().clone(),
        text: answer.text().await.unwrap(),
    }
}
