"""SGLang, an engine that serves LTX-2.3, observed from outside."""
