"""The page in the browser, in Gradio."""
